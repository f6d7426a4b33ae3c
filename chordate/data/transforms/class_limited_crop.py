"""ClassLimitedCrop: random crops for semantic segmentation in which no class dominates."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image

from chordate.arguments import Fraction, PositiveInt
from chordate.data.label_map import LabelMap
from chordate.registry import TRANSFORMS

TRIALS = 10


@TRANSFORMS.register_module()
class ClassLimitedCrop(v2.Transform):
    """Crop at random so that no class covers more than `max_fraction` of the labeled pixels.

    Up to ten random crops are tried; if none meets the limit, the last one is used (as with `cat_max_ratio` of
    MMSegmentation's RandomCrop). If a side of the image is shorter than the crop, the crop has the length of that side,
    and is padded when the batch is collated.

    Args:
        size: side of the crop in pixels, or height and width.
        max_fraction: maximum fraction of the labeled pixels that one class may cover; 1 for no limit.
    """

    def __init__(self, size: PositiveInt | tuple[PositiveInt, PositiveInt], max_fraction: Fraction = 0.75):
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.max_fraction = max_fraction

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = F.get_size(next(value for value in flat_inputs if isinstance(value, Image)))
        labels = next((value.as_subclass(Tensor) for value in flat_inputs if isinstance(value, LabelMap)), None)
        window = [min(side, limit) for side, limit in zip((height, width), self.size)]
        for _ in range(TRIALS):
            top, left = (int(torch.randint(side - cut + 1, ())) for side, cut in zip((height, width), window))
            if labels is None or self._is_mixed(labels[top : top + window[0], left : left + window[1]]):
                break
        return {"crop": (top, left, *window)}

    def _is_mixed(self, labels: Tensor) -> bool:
        """Whether there are labeled pixels, and no class covers more than `max_fraction` of them."""
        counts = torch.bincount(labels.flatten().int())[1:]  # without the ignored pixels, which are 0 in a LabelMap
        return bool(counts.sum() > 0) and bool(counts.max() <= self.max_fraction * counts.sum())

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, *params["crop"])
