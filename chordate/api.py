"""The Python API: predicts on images, extracts features, and lists models and backbones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor
from torchvision import tv_tensors

from chordate.arguments import Fraction, PositiveInt, checked_call
from chordate.config import list_configs
from chordate.data.image_files import image_files
from chordate.data.image_io import read_image
from chordate.data.object_boxes import as_detections, crop_samples
from chordate.data.transforms import TopDownCrop, build_pipeline
from chordate.errors import ConfigError, DataError
from chordate.model_contracts import Model, TopDownModel
from chordate.models.feature_extraction import feature_vectors
from chordate.registry import BACKBONES
from chordate.structures import Batch, Detections, ImageInfo, collate_images
from chordate.training.evaluation_loop import to_device

AnyImage = str | Path | np.ndarray | Tensor | PIL.Image.Image


def list_models(pattern: str = "*") -> list[str]:
    """Names of the packaged and published model configs that match a shell pattern, for example `"faster-rcnn*"`."""
    return list_configs(pattern)


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of the registered backbones and their variants that match a shell pattern, for example `"*resnet*"`."""
    return BACKBONES.names(pattern)


@checked_call()
@torch.inference_mode()
def predict(
    model: Model,
    images: AnyImage | Sequence[AnyImage],
    *,
    boxes: Any = None,
    score_threshold: Fraction = 0.0,
    batch_size: PositiveInt = 1,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> list[Any]:
    """Predict on images of any size. The model is not modified, so several threads may share it.

    Args:
        model: from `build_model`, with weights loaded, in evaluation mode; it stays on its device.
        images: a path, a PIL image, an RGB array `[H, W, 3]` or an RGB tensor `[3, H, W]`; a stack of arrays or
            tensors with a leading batch dimension; or a list of any of these. A folder stands for the images in it and
            in its subfolders, sorted by path. Pixels of arrays and tensors are integers 0 … 255 or floats 0 … 1. A
            model whose images do not have 3 channels takes arrays and tensors with its number of channels.
        boxes: the objects in each image, for a top-down model such as a pose estimator: an array `[M, 4]` of x1, y1,
            x2, y2 in pixels, or Detections whose labels are indices of `model.classes`; for several images, a list with
            one such entry per image. None if each image is one object.
        score_threshold: detections with a lower score are dropped; detectors also apply their own threshold (by default
            0.05). Predictions without detections or segments, such as a classifier's scores, are returned unchanged.
        batch_size: number of images per forward pass.
        precision: "fp32" keeps the model's data type; "bf16" runs convolutions and matrix products in bfloat16, which
            changes scores by about 0.01; "auto" is "bf16" for a float32 model on a GPU of compute capability 8 (Ampere)
            or later, and "fp32" otherwise.

    Returns:
        One Prediction per image, for example Detections in pixels of the original image, best score first.

    Raises:
        ConfigError: the model or a submodule is in training mode, an argument is out of its range, or the model does
            not take boxes.
        DataError: an image cannot be read, or boxes are invalid.
    """
    first = next(model.parameters())
    half = precision == "bf16" or (precision == "auto" and first.dtype == torch.float32 and _is_ampere(first.device))
    objects = None if boxes is None else _objects(model, images, boxes)
    predictions: list[Any] = []
    with torch.autocast(first.device.type, torch.bfloat16, enabled=half):
        for batch in _batches(model, images, batch_size, objects):
            predictions += model.predict(batch)
    if objects is not None and isinstance(model, TopDownModel):
        crops = iter(predictions)
        predictions = [model.merge_crops(list(islice(crops, len(own)))) for own in objects]
    return [prediction.above(score_threshold) for prediction in predictions]


@checked_call()
@torch.inference_mode()
def features(
    model: Model, images: AnyImage | Sequence[AnyImage], *, map: str | None = None, batch_size: PositiveInt = 1
) -> Tensor:
    """Extract one feature vector per image: a spatially averaged feature map, or the input of the last layer.

    Args:
        model, images, batch_size: as in `predict`.
        map: name of a feature map of the backbone, such as "c4"; None for the input of a classifier's last layer.

    Returns:
        `[N, C]` float32, one row per image, on the model's device.

    Raises:
        ConfigError: the feature map does not exist, `map` is None for a model that is not a classifier, or the model is
            in training mode.
        DataError: an image cannot be read, or `images` is empty.
    """
    vectors = [feature_vectors(model, batch, map) for batch in _batches(model, images, batch_size)]
    if not vectors:
        raise DataError("features: there are no images; pass at least one")
    return torch.cat(vectors)


def _is_ampere(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _objects(model: Model, images: AnyImage | Sequence[AnyImage], boxes: Any) -> list[Detections]:
    """The objects in each image, as Detections.

    Raises:
        ConfigError: the model does not take boxes, or its test pipeline has no TopDownCrop.
        DataError: the boxes are invalid, or `boxes` does not have one entry per image.
    """
    if not isinstance(model, TopDownModel):
        raise ConfigError(f"boxes are for top-down models such as PoseEstimator; {type(model).__name__} takes none")
    if not any(isinstance(transform, TopDownCrop) for transform in build_pipeline(model.pipeline).transforms):
        raise ConfigError("boxes need a TopDownCrop in the model's test pipeline (val_data.pipeline of its config)")
    several = _listed(images)
    each = [boxes] if len(several) == 1 and several[0] is images else boxes
    if not isinstance(each, list | tuple | np.ndarray | Tensor) or len(each) != len(several):
        got = f"{len(each)} entries" if isinstance(each, Sized) else type(each).__name__
        raise DataError(f"boxes must have one entry per image, got {got} for {len(several)} images")
    return [as_detections(own, model.classes, f"boxes of image {number}") for number, own in enumerate(each)]


def _batches(
    model: Model,
    images: AnyImage | Sequence[AnyImage],
    batch_size: int,
    objects: Sequence[Detections] | None = None,
) -> Iterator[Batch]:
    """Yield batches of images, transformed by the model's test pipeline, on the model's device.

    With `objects`, a batch has one crop per object instead of whole images.
    """
    for name, module in model.named_modules():
        if module.training:
            part = f".{name}" if name else ""
            raise ConfigError(f"{type(model).__name__}{part} is in training mode; call model.eval() first")
    pipeline, device = build_pipeline(model.pipeline), next(model.parameters()).device
    channels = model.input_shape(*model.example_size)[0]
    read = (
        {"image": image, "info": ImageInfo(number, path, image.shape[-2], image.shape[-1])}
        for number, (image, path) in enumerate(read_images(images, channels, model.meta.white_level))
    )
    if objects is not None:
        read = (crop for sample, own in zip(read, objects, strict=True) for crop in crop_samples(sample, own))
    samples = map(pipeline, read)
    while chunk := list(islice(samples, batch_size)):
        # Convolutions are faster in channels_last memory format, with the same result.
        yield to_device(collate_images(chunk, None, model.size_divisor), device, channels_last=True)


def _listed(images: AnyImage | Sequence[AnyImage]) -> Any:
    """The images as a sequence: lists and stacks unchanged, the files of a folder, a single image in a list.

    Raises:
        DataError: a folder has no images.
    """
    if isinstance(images, str | Path) and Path(images).is_dir():
        return image_files(Path(images))
    stacked = isinstance(images, Tensor | np.ndarray) and images.ndim == 4
    return images if stacked or isinstance(images, list | tuple) else [images]


def read_images(
    images: AnyImage | Sequence[AnyImage], channels: int, white_level: int | None
) -> Iterator[tuple[tv_tensors.Image, str]]:
    """Yield each image as uint8 `[channels, H, W]`, with its path or number.

    `white_level`, the largest value of pixels, applies to image files, see `read_image`.

    Raises:
        DataError: a file cannot be read, a folder has no images, or an array is not an image.
    """
    for number, image in enumerate(_listed(images)):
        if isinstance(image, str) and "://" in image:
            raise DataError(f"{image}: URLs are not supported; download the file first")
        if isinstance(image, str | Path):
            yield tv_tensors.Image(read_image(image, channels=channels, white_level=white_level)), str(image)
        else:
            yield tv_tensors.Image(_as_uint8(image, number, channels)), f"image {number}"


def _as_uint8(image: Any, number: int, channels: int) -> Tensor:
    what = f"image {number}"
    if isinstance(image, PIL.Image.Image):
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            raise DataError(f"{what}: PIL mode {image.mode} has no fixed range of values; convert it to RGB first")
        mode = "L" if channels == 1 else "RGBA" if channels == 4 and image.mode == "RGBA" else "RGB"
        image = np.array(PIL.ImageOps.exif_transpose(image).convert(mode))
    try:
        tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    except (TypeError, ValueError) as error:
        kind = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(
            f"{what}: {kind} cannot be read as an image; give a path, an array of numbers, a PIL image or a tensor"
        ) from error
    if tensor.ndim == 2:
        tensor = tensor[None] if isinstance(image, Tensor) else tensor[..., None]
    if tensor.ndim != 3:
        shapes = f"[H, W, {channels}] (array) or [{channels}, H, W] (tensor)"
        raise DataError(f"{what}: expected {shapes}, got {list(tensor.shape)}")
    if not isinstance(image, Tensor):
        tensor = tensor.permute(2, 0, 1)
    if tensor.shape[0] == 1 and channels == 3:
        tensor = tensor.expand(3, -1, -1)
    if tensor.shape[0] != channels or 0 in tensor.shape:
        wanted = "RGB, 3 channels" if channels == 3 else f"{channels} channels"
        raise DataError(
            f"{what}: expected {wanted}, with at least one pixel; got {list(tensor.shape)} (channels first)"
        )
    if tensor.is_floating_point():
        if not torch.isfinite(tensor).all() or tensor.min() < 0 or tensor.max() > 1:
            raise DataError(f"{what}: floating-point pixels must be within 0 … 1; convert pixels of 0 … 255 to uint8")
        tensor = (tensor * 255).round()
    elif tensor.dtype != torch.uint8:
        whole = not tensor.is_complex() and tensor.dtype != torch.bool
        if not whole or tensor.long().min() < 0 or tensor.long().max() > 255:
            raise DataError(
                f"{what}: not all pixels ({tensor.dtype}) are integers within 0 … 255; convert them to uint8"
            )
    return tensor.to(torch.uint8).contiguous()
