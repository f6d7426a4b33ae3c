"""Merges instance masks and semantic segmentation into panoptic segments, which do not overlap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """The `S` segments of one image.

    Attributes:
        ids: `[H, W]` int32, segment id of each pixel, 1 … `S`; 0 for pixels without a segment.
        labels: `[S]` int64, class of each segment.
        is_thing: `[S]` bool, whether each segment is a thing.
        scores: `[S]`; 1 for stuff.
        areas: `[S]` int64, number of pixels of each segment.
    """

    ids: Tensor
    labels: Tensor
    is_thing: Tensor
    scores: Tensor
    areas: Tensor


def merge_instances_and_stuff(
    masks: Tensor, scores: Tensor, labels: Tensor, stuff: Tensor, overlap_threshold: float, stuff_area: int
) -> Segments:
    """Merge instances and stuff as in Panoptic FPN (Kirillov et al. 2019, Panoptic Feature Pyramid Networks, section 3)
    and Detectron2's `combine_semantic_and_instance_outputs`.

    Instances are processed in descending order of score. Each one gets the pixels of its mask that are still free; it
    is dropped if the fraction of its mask that is already taken exceeds `overlap_threshold`. The remaining pixels
    become stuff segments.

    Args:
        masks: `[D, H, W]` bool, masks of `D` instances.
        scores: `[D]`.
        labels: `[D]` int64.
        stuff: `[H, W]` integers, the stuff class of each pixel; -1 for pixels that are not stuff.
        overlap_threshold: maximum fraction of an instance's mask that may already be taken, 0 … 1.
        stuff_area: minimum area of a stuff segment in pixels; smaller stuff segments are dropped.
    """
    order = scores.argsort(descending=True, stable=True)
    areas = masks.flatten(1).sum(1)
    ids = torch.zeros(stuff.shape, dtype=torch.int32, device=stuff.device)
    kept = torch.zeros(len(order), dtype=torch.bool, device=stuff.device)
    # A sequential loop, since whether an instance is kept depends on the previous ones; it has no host sync.
    for place, (mask, area) in enumerate(zip(masks[order], areas[order])):
        free = mask & (ids == 0)
        count = free.sum()
        kept[place] = (area - count <= overlap_threshold * area) & (count > 0)
        ids = torch.where(free & kept[place], place + 1, ids)
    chosen = order[kept]
    things = Segments(ids, labels[chosen], torch.ones_like(chosen, dtype=torch.bool), scores[chosen], areas[chosen])
    numbers = torch.cat([kept.new_zeros(1), kept]).cumsum(0).int()
    return add_stuff(things._replace(ids=numbers[ids.long()]), stuff, stuff_area)


def add_stuff(things: Segments, stuff: Tensor, stuff_area: int) -> Segments:
    """Append one stuff segment per class, made of the pixels that no thing covers; sets the areas of all segments.

    Args:
        things: the thing segments.
        stuff: `[H, W]` integers, the stuff class of each pixel; -1 for pixels that are not stuff.
        stuff_area: minimum area of a stuff segment in pixels; smaller stuff segments are dropped.
    """
    count = len(things.labels)
    rest = torch.where(things.ids == 0, stuff.long(), -1) + 1
    areas = rest.flatten().bincount(minlength=1)
    large = areas >= max(stuff_area, 1)
    large[0] = False
    numbers = torch.where(large, large.cumsum(0) + count, 0).int()
    ids = torch.where(things.ids == 0, numbers[rest], things.ids)
    labels = large.nonzero()[:, 0] - 1
    return Segments(
        ids,
        torch.cat([things.labels, labels]),
        torch.cat([things.is_thing, torch.zeros_like(labels, dtype=torch.bool)]),
        torch.cat([things.scores, things.scores.new_ones(len(labels))]),
        ids.flatten().bincount(minlength=count + len(labels) + 1)[1:],
    )
