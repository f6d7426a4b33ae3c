"""Drops instances without area from all fields of a sample."""

from typing import Any

import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, wrap

from chordate.arguments import NonNegativeFloat
from chordate.registry import TRANSFORMS
from chordate.structures.detection import count_instances

INSTANCE_FIELDS = ("labels", "crowd", "has_mask")  # plain tensors with one row per instance


def select_instances(sample: dict[str, Any], keep: Tensor) -> dict[str, Any]:
    """Keep the instances where `keep` `[M]` is true."""
    boxes: BoundingBoxes = sample["boxes"]
    selected = {**sample, "boxes": wrap(boxes.as_subclass(Tensor)[keep], like=boxes)}
    selected.update({name: sample[name][keep] for name in INSTANCE_FIELDS if name in sample})
    selected.update({name: sample[name].select(keep) for name in ("polygons", "keypoints") if name in sample})
    return selected


@TRANSFORMS.register_module()
class SanitizeInstances:
    """Clip boxes to the image and drop the instances without area, with their labels, polygons and keypoints.

    CocoDataset does this after its pipeline. (v2's SanitizeBoundingBoxes keeps the polygons and keypoints of dropped
    boxes, which then belong to the wrong instances.)

    v2's crops clip each box to the crop, so a box may be larger than the part of the object inside the crop. `tighten`
    uses the bounds of the clipped polygons instead, as Detectron2 does when it trains masks.

    Args:
        min_size: minimum side of a box in pixels. An instance is dropped if its box has a shorter side, or if its
            polygons have an area below `min_size²` (unless its mask is unknown: `has_mask` is false).
        tighten: replace boxes by the bounds of the polygons, for instances that have polygons.

    Raises:
        DataError: an earlier transform dropped instances from some fields but not from all.
    """

    def __init__(self, min_size: NonNegativeFloat = 0.01, tighten: bool = False):
        self.min_size, self.tighten = min_size, tighten

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if "boxes" not in sample:
            return sample
        count_instances(sample)
        sample = dict(sample)
        unclipped: BoundingBoxes = sample["boxes"]
        height, width = sample["image"].shape[-2:]
        boxes, polygons = unclipped.as_subclass(Tensor), sample.get("polygons")
        if polygons is not None and self.tighten:
            bounds = polygons.bounds()
            boxes = torch.where(bounds.isfinite().all(1, keepdim=True), bounds, boxes)
        limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        keep = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_size).all(1)
        if polygons is not None:
            has_mask = sample["has_mask"] if "has_mask" in sample else ~sample["crowd"]
            keep &= ~has_mask | (polygons.areas() >= self.min_size**2)
        sample["boxes"] = wrap(boxes, like=unclipped, canvas_size=(height, width))
        return sample if keep.all() else select_instances(sample, keep)
