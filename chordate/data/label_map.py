"""LabelMap: tv_tensor with the class of each pixel; torchvision's v2 transforms neither blend nor invent its labels.

Transforms of a Mask sample the nearest pixel, so labels never blend; but they fill uncovered pixels with 0 or with the
image's `fill`, which would be labels. A LabelMap holds label + 1, and 0 for ignored pixels, and is filled with 0.

Resizing a Mask samples the input at `i / scale` for output pixel `i`, half an output pixel left of the pixel's center;
images are resized by pixel centers. A LabelMap is resized by pixel centers as well (NEAREST_EXACT).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import register_kernel
from torchvision.tv_tensors import Mask, wrap


class LabelMap(Mask):
    """`[H, W]` integers: label + 1, 0 for ignored pixels."""


def label_map(labels: Tensor, ignored: Tensor) -> LabelMap:
    """The LabelMap of `labels` `[H, W]`; `ignored` `[H, W]` bool marks the pixels without a class."""
    return LabelMap(torch.where(ignored, 0, labels.int() + 1).to(torch.int16))


def _filled_with_zero(kernel: Callable[..., Tensor]) -> Callable[..., LabelMap]:
    """Wrap a mask kernel so that it ignores the transform's `fill` and fills with 0."""
    accepted = set(inspect.signature(kernel).parameters) - {"fill"}  # mask kernels accept no `interpolation`

    def transform(labels: LabelMap, *args: Any, **settings: Any) -> LabelMap:
        used = {name: value for name, value in settings.items() if name in accepted}
        return wrap(kernel(labels.as_subclass(Tensor), *args, fill=0, **used), like=labels)

    return transform


for functional, kernel in (
    (F.pad, F.pad_mask),
    (F.affine, F.affine_mask),
    (F.rotate, F.rotate_mask),
    (F.perspective, F.perspective_mask),
    (F.elastic, F.elastic_mask),
):
    register_kernel(functional, LabelMap)(_filled_with_zero(kernel))


def _resized(labels: Tensor, size: list[int] | None, max_size: int | None = None) -> Tensor:
    return F.resize_image(labels[None], size, InterpolationMode.NEAREST_EXACT, max_size)[0]


@register_kernel(F.resize, LabelMap)
def _resize(labels: LabelMap, size: list[int] | None, *, max_size: int | None = None, **settings: Any) -> LabelMap:
    """Resize by pixel centers; the settings for images (interpolation, antialias) do not apply."""
    return wrap(_resized(labels.as_subclass(Tensor), size, max_size), like=labels)


@register_kernel(F.resized_crop, LabelMap)
def _resized_crop(
    labels: LabelMap, top: int, left: int, height: int, width: int, size: list[int], **settings: Any
) -> LabelMap:
    cropped = F.crop_mask(labels.as_subclass(Tensor), top, left, height, width)
    return wrap(_resized(cropped, size), like=labels)
