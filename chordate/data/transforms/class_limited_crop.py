"""Random crops for semantic segmentation that are not covered by a single class."""

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

    Up to ten places are tried, and the last one is taken if none fits, as by `cat_max_ratio` of MMSegmentation's
    RandomCrop. A side that is shorter than the crop is kept; it is padded with the batch.

    Args:
        size: side of the crop in pixels, or height and width.
        max_fraction: limit of the largest class; 1 crops at random.
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
        """Whether no class covers too much; a crop of ignored pixels alone is not mixed."""
        counts = torch.bincount(labels.flatten().int())[1:]  # without the ignored pixels, which are 0 in a LabelMap
        return bool(counts.sum() > 0) and bool(counts.max() <= self.max_fraction * counts.sum())

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, *params["crop"])
