"""The settings that Detectron2's weights were trained with, as far as the tensors show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.weights.formats.architecture import count
from chordate.weights.formats.format import State

Pixels = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of the images

RGB: Pixels = (IMAGENET_MEAN, IMAGENET_STD)
BGR: Pixels = (IMAGENET_MEAN[::-1], (57.375, 57.12, 58.395))  # PIXEL_STD of X-101-32x8d and of training from scratch
CAFFE: Pixels = (IMAGENET_MEAN[::-1], (1.0, 1.0, 1.0))  # in BGR order; the std is absorbed into Caffe2's weights
EPS = 1e-5  # epsilon of BatchNorm in OpenMMLab's libraries and Detectron2, and of Detectron2's FrozenBatchNorm2d
PIXELS = ("pixel_mean", "pixel_std")  # tensors in files from before 2021; later files lack them


def image_settings(state: State, resnet: str) -> dict[str, Any]:
    """The images' color order, mean and std, the convolution that has a bottleneck's stride, and BatchNorm's epsilon.

    Old files contain mean and std. Otherwise, the tensors of the ResNet show which ImageNet weights the model started
    from, and these imply the settings:

    - Three convolutions in the stem: DeepLab's R-52 and R-103, with RGB images and ImageNet's mean and std.
    - X-101-32x8d, or a stem whose BatchNorm was trained: BGR images and ImageNet's std.
    - GroupNorm, or frozen BatchNorms with running means of 0 (folded into the norms' biases), except in
      X-101-32x8d: MSRA's and FAIR's networks from Caffe2, with BGR images and std 1. MSRA's have one group, frozen
      BatchNorms, and the stride in the first 1×1 convolution.
    - Other running means: torchvision's weights, with RGB images and ImageNet's mean and std.

    Args:
        state: tensors, keyed by Detectron2's names.
        resnet: prefix of the names of the ResNet.
    """
    mean, std = _pixels(state, resnet)
    has_group_norm = f"{resnet}stem.conv1.norm.running_mean" not in state
    is_msra = set(std) == {1.0} and not has_group_norm and _groups(state, resnet)[0] == 1
    settings = {"preprocess.bgr": mean[0] < mean[-1], "preprocess.mean": mean, "preprocess.std": std}
    if f"{resnet}res2.0.conv3.weight" in state:  # BasicBlock is the same in both styles
        settings["backbone.style"] = "caffe" if is_msra else "pytorch"
    if not has_group_norm:
        settings["backbone.norm.eps"] = EPS
    return settings


def config_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings of our models to keys and values of Detectron2's config."""
    options: dict[str, Any] = {}
    for name, value in settings.items():
        head, _, last = name.replace(".stage.", ".").rpartition(".")
        if name == "preprocess.bgr":
            options["INPUT.FORMAT"] = "BGR" if value else "RGB"
        elif head == "preprocess":
            options[f"MODEL.PIXEL_{last.upper()}"] = value
        elif name == "backbone.style":
            options["MODEL.RESNETS.STRIDE_IN_1X1"] = value == "caffe"
        elif last == "aligned":
            options[f"MODEL.ROI_{head.upper()}_HEAD.POOLER_TYPE"] = "ROIAlignV2" if value else "ROIAlign"
        elif last == "sampling_ratio":
            options[f"MODEL.ROI_{head.upper()}_HEAD.POOLER_SAMPLING_RATIO"] = value
    return options


def image_guesses(state: State) -> str:
    """Text about the settings that `image_settings` guesses, and the options of Detectron2's config to check."""
    if all(name in state for name in PIXELS):
        return "style is guessed from pixel_std; compare it with MODEL.RESNETS.STRIDE_IN_1X1"
    return (
        "colors, mean, std and style are guessed from the first layers; compare them with INPUT.FORMAT, "
        "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and MODEL.RESNETS.STRIDE_IN_1X1"
    )


def _pixels(state: State, resnet: str) -> Pixels:
    if all(name in state for name in PIXELS):
        mean, std = ([round(value, 3) for value in state[name].flatten().tolist()] for name in PIXELS)
        return tuple(mean), tuple(std)
    if f"{resnet}stem.conv3.weight" in state:
        return RGB
    stem = f"{resnet}stem.conv1.norm."
    is_x101 = _groups(state, resnet) == (32, 8) and count(state, f"{resnet}res4.{{}}.conv1.weight") == 23
    steps = state.get(f"{stem}num_batches_tracked")  # 0 in a frozen stem: FrozenBatchNorm2d keeps BatchNorm's counter
    if is_x101 or (steps is not None and steps.any()):
        return BGR
    statistics = state.get(f"{stem}running_mean")
    return CAFFE if statistics is None or not statistics.any() else RGB


def _groups(state: State, resnet: str) -> tuple[int, int]:
    """Number of groups of the 3×3 convolutions in res2, and channels of each group."""
    weight = state.get(f"{resnet}res2.0.conv2.weight")
    return (1, 64) if weight is None else (weight.shape[0] // weight.shape[1], weight.shape[1])


def region_settings(heads: list[str]) -> dict[str, Any]:
    """Settings of an R-CNN: anchors that are not rounded and have nominal strides; in `heads`, RoIAlign with
    `aligned=True` and an adaptive number of samples per bin."""
    settings: dict[str, Any] = {"rpn.anchors.rounded": False, "rpn.anchors.stride_from_grid": False}
    for head in heads:
        settings |= {f"{head}.aligned": True, f"{head}.sampling_ratio": 0}
    return settings
