"""The Python face: build a model or a backbone by name, predict on pictures, and take features of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torchvision import tv_tensors

from chordate import checks
from chordate.weights.loading import load_checkpoint, load_pretrained, read_state
from chordate.config import list_configs, load_config
from chordate.contracts import Backbone, check_outputs
from chordate.data.batching import SIDE_MULTIPLE, collate
from chordate.data.coco_classes import COCO_CLASSES, COCO_SKELETON
from chordate.data.image_folder import imagenet_classes
from chordate.data.image_io import read_image
from chordate.data.transforms import build_pipeline
from chordate.training.features import batch_features
from chordate.errors import CheckpointError, ConfigError, DataError, unknown
from chordate.ops.bfloat16 import has_fast_bfloat16
from chordate.registry import BACKBONES, MODELS
from chordate.structures import Batch, Classification, Detections, ImageInfo, Skeleton

DEFAULT_PIPELINE = [{"type": "ResizeShortestEdge", "size": 800, "max_size": 1333}]
KNOWN_CLASSES = {"coco": lambda: COCO_CLASSES, "imagenet": imagenet_classes}  # what `fallback_classes` may name
Picture = str | Path | np.ndarray | Tensor | PIL.Image.Image


def list_models(pattern: str = "*") -> list[str]:
    """Names of the packaged model configs that match a shell pattern, for example `"faster-rcnn*"`."""
    return list_configs(pattern)


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of the registered backbones and their variants that match a shell pattern, `"*resnet*"`."""
    return BACKBONES.names(pattern)


def build_backbone(
    backbone: str | Mapping[str, Any], *, pretrained: str | bool | None = None, **options: Any
) -> Backbone:
    """Build a backbone.

    Args:
        backbone: a variant's name (`"resnet50"`), or a dict with `type` and arguments.
        pretrained: weights to load: True for the variant's own, `"torchvision://resnet50"`, a path or a URL.
        options: further arguments, such as `out=["c3", "c4", "c5"]`, which override the variant's.

    Returns:
        A module that turns normalised images `[N, 3, H, W]` into a dict of the maps that its `out_features`
        describes.

    Raises:
        ConfigError: unknown name or argument, or the backbone does not keep its own promise.
        CheckpointError: the weights cannot be read or do not fit.
    """
    config: dict[str, Any] = {"type": backbone} if isinstance(backbone, str) else dict(backbone)
    if pretrained is not None:
        config["pretrained"] = pretrained
    built = BACKBONES.build({**config, **options})
    check_outputs(built, getattr(built, "in_channels", 3))
    load_pretrained(built)
    return built


def build_model(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    skeleton: Skeleton | None = None,
    checkpoint: str | Path | Mapping[str, Any] | None = None,
    pretrained: bool = True,
) -> nn.Module:
    """Build a whole model, wire its parts and load weights: a trained model's, or those that its backbone names.

    Args:
        config: a packaged config's name (`"faster-rcnn_r50_fpn_1x_coco"`), a file's path, a Config, or a dict:
            a whole config or just its `model` part.
        classes: class names. Without them: `num_classes`, else those in the checkpoint, else the config's.
        num_classes: how many classes, when their names do not matter.
        skeleton: the keypoints to find, for a model that finds some. Without it: those in the checkpoint, else the
            config's.
        checkpoint: of a trained model: a path, a URL, or what `read_state` gave. What became of its tensors is
            then told by `model.load_report`.
        pretrained: False leaves the backbone at its random initialisation; so does a checkpoint, until it is loaded.

    Returns:
        The model, with `model.classes` and the test pipeline of its config in `model.pipeline`. What became of its
        backbones' weights is told by `model.pretrained_reports`.

    Raises:
        ConfigError: unknown names, parts that do not fit together, or no way to know the classes.
        CheckpointError: weights cannot be read, or are another model's.
    """
    if isinstance(config, Mapping) and "type" in config and "model" not in config:
        config = {"model": config}
    cfg = load_config(config)
    if cfg.get("model") is None:
        raise ConfigError(f"{cfg.filename or 'the config'} has no section `model`; add model = dict(type=…)")
    state = checkpoint if checkpoint is None or isinstance(checkpoint, Mapping) else read_state(checkpoint)
    if state is not None and classes is None and num_classes is None:
        classes = state.get("classes")
    names = _class_names(cfg, classes, num_classes, state)
    _check_classes(state, classes)
    spec = cfg.model.to_dict() if hasattr(cfg.model, "to_dict") else cfg.model
    if spec.get("keypoint") is None:
        model: Any = MODELS.build(spec, num_classes=len(names))
    else:
        skeleton = skeleton or _skeleton(cfg, state)
        model = MODELS.build(spec, num_classes=len(names), num_keypoints=len(skeleton.names))
        model.skeleton = skeleton
    model.classes = names
    model.pipeline = (cfg.get("val_data") or {}).get("pipeline", DEFAULT_PIPELINE)
    if state is not None:
        model.load_report = load_checkpoint(model, state)
    elif pretrained:
        model.pretrained_reports = load_pretrained(model)
    return model


def _check_classes(state: Mapping[str, Any] | None, classes: Sequence[str] | None) -> None:
    trained = (state or {}).get("classes")
    if trained and classes is not None and list(trained) != list(classes):
        raise CheckpointError(
            f"{getattr(state, 'source', 'the checkpoint')} was trained on the classes {', '.join(trained)}, not on "
            f"{', '.join(classes)}; leave classes out to have the checkpoint's"
        )


def _class_names(
    cfg: Config, classes: Sequence[str] | None, num_classes: int | None, state: Mapping[str, Any] | None
) -> tuple[str, ...]:
    if classes is not None:
        if isinstance(classes, str):
            raise ConfigError(f'classes is a list of names, not the text "{classes}"')
        if num_classes not in (None, len(classes)):
            raise ConfigError(f"num_classes={num_classes}, but classes has {len(classes)} names; give one of them")
        return tuple(classes)
    if num_classes is not None:
        checks.number("num_classes", num_classes, least=1, whole=True)
        return tuple(f"class {index}" for index in range(num_classes))
    chosen = (cfg.get("train_data") or {}).get("dataset", {}).get("classes") or cfg.get("fallback_classes")
    if isinstance(chosen, str):
        if chosen not in KNOWN_CLASSES:
            raise ConfigError(unknown("fallback_classes", chosen, KNOWN_CLASSES))
        return KNOWN_CLASSES[chosen]()
    if chosen:
        return tuple(chosen)
    neither = "" if state is None else f", nor does {getattr(state, 'source', 'the checkpoint')}"
    raise ConfigError(
        f"this config does not name its classes{neither}; give classes=[…] or num_classes=…, or on the command line "
        f"--cfg-options 'fallback_classes=[cat,dog]'"
    )


def _skeleton(cfg: Config, state: Mapping[str, Any] | None) -> Skeleton:
    """The keypoints that a checkpoint names, else the config."""
    if state is not None and state.get("skeleton"):
        return Skeleton.from_dict(state["skeleton"])
    chosen = cfg.get("fallback_keypoints")
    if chosen == "coco":
        return COCO_SKELETON
    if isinstance(chosen, list | tuple) and chosen:
        return Skeleton(tuple(map(str, chosen)))
    raise ConfigError(
        f"{cfg.filename or 'this config'} has a keypoint head but does not name its keypoints; train on data with "
        f'keypoints=True, or set fallback_keypoints to a list of names, or to "coco"'
    )


def pictures(images: Picture | Sequence[Picture]) -> Iterator[tuple[tv_tensors.Image, str]]:
    """One picture after the other as uint8 RGB `[3, H, W]`, with the path it came from (or its number).

    Raises:
        DataError: a file cannot be read, or an array is no picture.
    """
    stacked = isinstance(images, Tensor | np.ndarray) and images.ndim == 4
    several: Any = images if stacked or isinstance(images, list | tuple) else [images]
    for number, image in enumerate(several):
        if isinstance(image, str | Path):
            yield tv_tensors.Image(read_image(image)), str(image)
        else:
            yield tv_tensors.Image(_as_uint8(image, number)), f"image {number}"


def _as_uint8(image: Any, number: int) -> Tensor:
    what = f"image {number}"
    if isinstance(image, PIL.Image.Image):
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            raise DataError(f"{what}: PIL mode {image.mode} has no range of its own; convert it to RGB first")
        image = np.array(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    try:
        tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    except (TypeError, ValueError) as error:
        kind = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"{what}: a {kind} is no picture; give a path, an array, a PIL image or a tensor") from error
    if tensor.ndim == 2:
        tensor = tensor[None] if isinstance(image, Tensor) else tensor[..., None]
    if tensor.ndim != 3:
        raise DataError(f"{what}: expected [H, W, 3] (array) or [3, H, W] (tensor), got {list(tensor.shape)}")
    if not isinstance(image, Tensor):
        tensor = tensor.permute(2, 0, 1)
    if tensor.shape[0] == 1:
        tensor = tensor.expand(3, -1, -1)
    if tensor.shape[0] != 3 or 0 in tensor.shape:
        raise DataError(f"{what}: expected 3 channels, RGB, and some pixels; got {list(tensor.shape)} (channels first)")
    if tensor.is_floating_point():
        if not torch.isfinite(tensor).all() or tensor.min() < 0 or tensor.max() > 1:
            raise DataError(f"{what}: floating-point pictures are 0 … 1; give 0 … 255 as uint8")
        tensor = (tensor * 255).round()
    elif tensor.dtype != torch.uint8:
        whole = not tensor.is_complex() and tensor.dtype != torch.bool
        if not whole or tensor.long().min() < 0 or tensor.long().max() > 255:
            raise DataError(f"{what}: integer pictures are 0 … 255; this one is {tensor.dtype} with other values")
    return tensor.to(torch.uint8).contiguous()


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: Picture | Sequence[Picture],
    *,
    score_threshold: float = 0.0,
    batch_size: int = 1,
    precision: str = "auto",
) -> list[Any]:
    """Detect on pictures of any size, or classify them.

    Args:
        model: from `build_model`, with weights loaded; it stays on its device, and in its mode.
        images: a path, an RGB array `[H, W, 3]` uint8, a PIL image, an RGB tensor `[3, H, W]` (uint8, or float
            0 … 1), a stack of them, or a list of any of these.
        score_threshold: detections below it are dropped; the model's own limit (0.05) holds in any case. A
            classifier gives all its scores.
        batch_size: pictures that go through the model together.
        precision: `"auto"` runs convolutions and matrices in bfloat16 where the hardware has it and the model is
            float32 (scores then move by about 0.01); `"fp32"` keeps the model's own precision; `"bf16"` insists.

    Returns:
        For each picture a Detections, in the picture's own pixels and best score first; or a Classification.

    Raises:
        DataError: a picture cannot be read.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f'precision="{precision}"; choose auto, fp32 or bf16')
    first = next(model.parameters())
    half = precision == "bf16" or (
        precision == "auto" and first.dtype == torch.float32 and has_fast_bfloat16(first.device)
    )
    was_training = model.training
    model.eval()
    found: list[Detections | Classification] = []
    try:
        with torch.autocast(first.device.type, torch.bfloat16, enabled=half):
            for batch in _batches(model, images, batch_size):
                # Convolutions are faster with a pixel's channels side by side; the result is the same.
                batch.images = batch.images.contiguous(memory_format=torch.channels_last)
                found += model(batch)
    finally:
        model.train(was_training)
    return [one[one.scores >= score_threshold] if isinstance(one, Detections) else one for one in found]


@torch.inference_mode()
def features(
    model: nn.Module, images: Picture | Sequence[Picture], *, map: str | None = None, batch_size: int = 1
) -> Tensor:
    """What a model sees in pictures, for other programs to work on: its features averaged over each picture.

    Args:
        model: from `build_model`, with weights loaded.
        images, batch_size: as of `predict`.
        map: of the backbone, such as "c4"; None is what a classifier's last layer reads.

    Returns:
        `[pictures, channels]` float32, on the model's device.

    Raises:
        ConfigError: no such map, or none named for a model that does not classify.
        DataError: a picture cannot be read.
    """
    was_training = model.training
    model.eval()
    try:
        return torch.cat([batch_features(model, batch, map) for batch in _batches(model, images, batch_size)])
    finally:
        model.train(was_training)


def _batches(model: nn.Module, images: Picture | Sequence[Picture], batch_size: int) -> Iterator[Batch]:
    """Pictures as the model's test pipeline leaves them, on its device."""
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}; it is at least 1")
    pipeline = build_pipeline(getattr(model, "pipeline", DEFAULT_PIPELINE))
    device, side_multiple = next(model.parameters()).device, getattr(model, "side_multiple", SIDE_MULTIPLE)
    samples = (
        pipeline({"image": image, "info": ImageInfo(number, path, image.shape[-2], image.shape[-1])})
        for number, (image, path) in enumerate(pictures(images))
    )
    while chunk := list(islice(samples, batch_size)):
        yield collate(chunk, side_multiple).to(device)
