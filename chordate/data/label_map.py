"""LabelMap: the class of each pixel as a tv_tensor, on which every transform of torchvision's v2 is exact.

Transforms of a Mask sample the nearest pixel, so labels never blend; but they fill uncovered pixels with 0 or with the
image's `fill`, which would be labels. A LabelMap holds label + 1, and 0 for ignored pixels, and is filled with 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
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
