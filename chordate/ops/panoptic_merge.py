"""Merges instance masks and a class per pixel into segments that do not overlap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """Segments of one image, in the order of their numbers.

    Attributes:
        ids: `[H, W]` int32, 1 … `S`; 0 where there is no segment.
        labels: `[S]` int64.
        is_thing: `[S]` bool.
        scores: `[S]`; 1 for stuff.
        areas: `[S]` int64, number of pixels.
    """

    ids: Tensor
    labels: Tensor
    is_thing: Tensor
    scores: Tensor
    areas: Tensor


def merge_instances_and_stuff(
    masks: Tensor, scores: Tensor, labels: Tensor, stuff: Tensor, overlap_threshold: float, stuff_area: int
) -> Segments:
    """The merge of Panoptic FPN (Kirillov et al. 2019, Panoptic Feature Pyramid Networks, section 3), in the order of
    Detectron2's `combine_semantic_and_instance_outputs`.

    Instances take their pixels, highest score first; one of which a larger fraction than `overlap_threshold` is taken
    already is dropped. Then stuff gets the pixels that are left.

    Args:
        masks: `[D, H, W]` bool.
        scores: `[D]`.
        labels: `[D]` int64.
        stuff: `[H, W]` integers, the stuff class of each pixel, or -1.
        overlap_threshold: 0 … 1.
        stuff_area: pixels; smaller stuff is dropped.
    """
    order = scores.argsort(descending=True, stable=True)
    areas = masks.flatten(1).sum(1)
    ids = torch.zeros(stuff.shape, dtype=torch.int32, device=stuff.device)
    kept = torch.zeros(len(order), dtype=torch.bool, device=stuff.device)
    # Whether an instance is kept depends on those before it. No step waits for the device.
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
    """Append the stuff in the pixels without a thing; sets the areas of all segments.

    Args:
        things: the segments so far.
        stuff: `[H, W]` integers, the stuff class of each pixel, or -1.
        stuff_area: pixels; smaller stuff is dropped.
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
