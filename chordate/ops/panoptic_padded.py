"""Panoptic segments in fixed slots, as exported models compute them: no shape depends on values.

The outputs are tensors named as the fields of `PanopticMap`, for `N` images and `S` slots, first things, then stuff:
`ids` `[N, H, W]` int32, the slot + 1 of each pixel, 0 without a segment; `labels` `[N, S]` int64, -1 in empty slots;
`is_thing` `[N, S]` bool; `scores` `[N, S]`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.ops.resampling import bilinear_weights
from chordate.structures import Batch, PanopticMap


def inside_images(sizes: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask `[N, H, W]` bool of the image pixels: True inside the image, False in the padding.

    Args:
        sizes: `[N, 2]`, heights and widths of the images without padding.
        size: height and width of the padded batch.
    """
    y, x = (torch.arange(side, device=sizes.device) for side in size)
    return (y < sizes[:, :1])[:, :, None] & (x < sizes[:, 1:])[:, None, :]


def place_masks(
    masks: Tensor, boxes: Tensor, present: Tensor, size: tuple[int, int], overlap_threshold: float
) -> tuple[Tensor, Tensor]:
    """Place the masks of instances into images one after the other, as in `merge_instances_and_stuff`.

    Args:
        masks: `[N, D, M, M]`, the probability of each mask in the cells of a grid over its box; highest score first.
        boxes: `[N, D, 4]` x1, y1, x2, y2 in pixels.
        present: `[N, D]` bool, False for padding.
        size: height and width of the images.
        overlap_threshold: maximum fraction of an instance's mask that may already be taken, 0 … 1.

    Returns:
        `[N, H, W]` int32, the slot + 1 of the instance at each pixel (0 for none), and `[N, D]` bool, whether each
        instance is kept.
    """
    height, width = size
    ids = torch.zeros(masks.shape[0], height, width, dtype=torch.int32, device=masks.device)
    first, kept = torch.zeros_like(boxes[:, 0, 0]), []
    for slot in range(masks.shape[1]):
        left, top, right, bottom = boxes[:, slot].unbind(-1)
        rows = bilinear_weights(top, bottom, first, height, masks.shape[2])
        columns = bilinear_weights(left, right, first, width, masks.shape[3])
        mask = (rows @ masks[:, slot] @ columns.mT >= 0.5) & present[:, slot, None, None]
        free = mask & (ids == 0)
        area, count = mask.sum((1, 2)), free.sum((1, 2))
        keep = (area - count <= overlap_threshold * area) & (count > 0)
        ids = torch.where(free & keep[:, None, None], slot + 1, ids)
        kept.append(keep)
    return ids, torch.stack(kept, dim=1)


def add_padded_stuff(
    ids: Tensor, things: Tensor, scores: Tensor, stuff: Tensor, num_classes: int, stuff_area: int
) -> dict[str, Tensor]:
    """Append one slot per class for stuff, as in `add_stuff`. Returns the outputs described at the top of this file.

    Args:
        ids: `[N, H, W]` int32, the slot + 1 of the thing at each pixel, or 0.
        things: `[N, D]` int64, class of each thing; -1 in empty slots.
        scores: `[N, D]`.
        stuff: `[N, H, W]` int64, the stuff class of each pixel; -1 for pixels that are not stuff.
        num_classes: number of classes of the dataset.
        stuff_area: minimum area of a stuff segment in pixels; smaller stuff segments are dropped.
    """
    rest = torch.where(ids == 0, stuff, -1) + 1
    areas = rest.new_zeros(rest.shape[0], num_classes + 1)
    areas = areas.scatter_add(1, rest.flatten(1), torch.ones_like(rest).flatten(1))[:, 1:]
    large = areas >= max(stuff_area, 1)
    is_placed = F.pad(large, (1, 0)).gather(1, rest.flatten(1)).view_as(rest)
    classes = torch.arange(num_classes, device=large.device)
    return {
        "ids": torch.where(is_placed, things.shape[1] + rest, ids).int(),
        "labels": torch.cat([things, torch.where(large, classes, -1)], dim=1),
        "is_thing": torch.cat([things >= 0, torch.zeros_like(large)], dim=1),
        "scores": torch.cat([scores, large.to(scores.dtype)], dim=1),
    }


def unpad_segments(tensors: Mapping[str, Tensor], batch: Batch) -> list[PanopticMap]:
    """The segments of each image, without empty slots, resized to the original image."""
    results = []
    for i, (info, (height, width)) in enumerate(zip(batch.infos, batch.sizes.tolist())):
        ids = tensors["ids"][i, :height, :width]
        labels, is_thing, scores = (tensors[name][i] for name in ("labels", "is_thing", "scores"))
        if ids.shape != (info.height, info.width):
            ids = F.interpolate(ids[None, None].float(), (info.height, info.width), mode="nearest-exact")[0, 0].int()
        areas = ids.flatten().bincount(minlength=len(labels) + 1)[1:]
        results.append(PanopticMap(ids, labels, is_thing, scores, areas).select(areas > 0))
    return results
