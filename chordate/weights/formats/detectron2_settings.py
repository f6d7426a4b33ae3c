"""The settings that Detectron2's weights were trained with, as far as the tensors show them."""

from __future__ import annotations

from typing import Any

from chordate.weights.formats.format import State

RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # PIXEL_MEAN and PIXEL_STD of its RGB models
BGR_MEAN, BGR_STD = RGB_MEAN[::-1], (57.375, 57.12, 58.395)  # PIXEL_STD of its X-101-32x8d; 1 for MSRA's ResNets
EPS = 1e-5  # epsilon of Detectron2's BatchNorm and FrozenBatchNorm2d
PIXELS = ("pixel_mean", "pixel_std")  # tensors in files from before 2021; later files lack them


def image_settings(state: State, resnet: str) -> dict[str, Any]:
    """Color order, mean and std of the images, and where the bottlenecks have their stride.

    Old files contain mean and std. Otherwise, they follow from the ImageNet weights that initialized the model:

    - Three convolutions in the stem: DeepLab's R-52 and R-103, with RGB images and ImageNet's mean and std.
    - Grouped convolutions: X-101-32x8d, with BGR images and the std BGR_STD.
    - Frozen BatchNorms whose statistics are zero, since Caffe folded them into scale and shift, or GroupNorm: MSRA's
      and FAIR's ResNets from Caffe2, with BGR images and std 1. MSRA's have the stride in the first 1×1 convolution.
    - Other statistics: torchvision's weights, with RGB images and ImageNet's mean and std.

    Args:
        state: tensors, keyed by Detectron2's names.
        resnet: prefix of the names of the ResNet.
    """
    mean, std = _pixels(state, resnet)
    has_group_norm = f"{resnet}stem.conv1.norm.running_mean" not in state
    is_msra = set(std) == {1.0} and not has_group_norm
    settings = {"preprocess.bgr": mean[0] < mean[-1], "preprocess.mean": mean, "preprocess.std": std}
    if f"{resnet}res2.0.conv3.weight" in state:  # BasicBlock is the same in both styles
        settings["backbone.style"] = "caffe" if is_msra else "pytorch"
    if not has_group_norm:
        settings["backbone.norm.eps"] = EPS
    return settings


def _pixels(state: State, resnet: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if all(name in state for name in PIXELS):
        mean, std = ([round(value, 3) for value in state[name].flatten().tolist()] for name in PIXELS)
        return tuple(mean), tuple(std)
    statistics = state.get(f"{resnet}stem.conv1.norm.running_mean")
    grouped = state.get(f"{resnet}res2.0.conv2.weight")
    if f"{resnet}stem.conv3.weight" in state:
        return RGB_MEAN, RGB_STD
    if grouped is not None and grouped.shape[1] < grouped.shape[0]:
        return BGR_MEAN, BGR_STD
    if statistics is None or not statistics.any():
        return BGR_MEAN, (1.0, 1.0, 1.0)
    return RGB_MEAN, RGB_STD


def region_settings(heads: list[str]) -> dict[str, Any]:
    """Settings of an R-CNN: anchors that are not rounded; in `heads`, RoIAlign with `aligned=True` and one sample per
    pixel of a bin."""
    settings: dict[str, Any] = {"rpn.anchors.rounded": False, "rpn.anchors.stride_from_grid": False}
    for head in heads:
        settings |= {f"{head}.aligned": True, f"{head}.sampling_ratio": 0}
    return settings
