"""Masks from the frames of their boxes to the whole picture (Mask R-CNN, He et al. 2017, section 3.1, inference)."""

import torch
from torch import Tensor

CHUNK = 2**24  # numbers that are made at once: 64 MiB in float32


@torch.no_grad()
def paste_masks(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> Tensor:
    """Resample each mask bilinearly to its box, and say which pixels are at least `threshold`.

    A pixel is sampled at its centre; the cells of the mask are squares that fill the box, so nothing is moved by half
    a pixel, and beyond the outermost cells' centres the mask fades to 0.

    Args:
        probabilities: `[D, M, M]`.
        boxes: `[D, 4]` x1, y1, x2, y2 in pixels of the picture.
        height, width: of the picture.
        threshold: above 0.

    Returns:
        `[D, height, width]` bool.
    """
    boxes = boxes.to(probabilities.dtype)
    pasted = torch.zeros((len(boxes), height, width), dtype=torch.bool, device=boxes.device)
    with torch.autocast(boxes.device.type, enabled=False):  # bfloat16 has too few digits for a pixel's place
        paste = _paste_windows if boxes.device.type == "cpu" else _paste_chunks
        paste(probabilities, boxes, threshold, pasted)
    return pasted


def _paste_chunks(masks: Tensor, boxes: Tensor, threshold: float, pasted: Tensor) -> None:
    """For GPUs: as many masks at a time as memory allows, each on the whole picture. Fills `pasted`, as below."""
    height, width = pasted.shape[1:]
    step = max(1, CHUNK // max(1, height * width))
    first = torch.zeros_like(boxes[:, :2])
    for some, frames, start, into in zip(*(each.split(step) for each in (masks, boxes, first, pasted))):
        rows, columns = _axes(some, frames, start, height, width)
        torch.ge(rows @ some @ columns.mT, threshold, out=into)


def _paste_windows(masks: Tensor, boxes: Tensor, threshold: float, pasted: Tensor) -> None:
    """For CPUs: each mask only where it can be; most boxes are a small part of the picture."""
    if not len(boxes):
        return
    limits = torch.tensor([pasted.shape[2], pasted.shape[1]])
    margin = (boxes[:, 2:] - boxes[:, :2]) / (2 * masks.shape[-1]) + 1  # half a cell, and a pixel for rounding
    low = (boxes[:, :2] - margin).floor().long().clamp(min=0).minimum(limits)
    high = (boxes[:, 2:] + margin).ceil().long().clamp(min=0).minimum(limits)
    wide, tall = (high - low).amax(dim=0).tolist()
    step = max(1, CHUNK // max(1, (wide + tall) * masks.shape[-1]))
    for some, frames, first, last, into in zip(*(each.split(step) for each in (masks, boxes, low, high, pasted))):
        rows, columns = _axes(some, frames, first, tall, wide)
        for mask, row, column, (left, top), (right, bottom), picture in zip(
            some, rows, columns, first.tolist(), last.tolist(), into
        ):
            resampled = row[: bottom - top] @ mask @ column[: right - left].T
            torch.ge(resampled, threshold, out=picture[top:bottom, left:right])


def _axes(masks: Tensor, boxes: Tensor, first: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Weights of the masks' rows `[D, height, M]` and columns `[D, width, M]`; resampled is rows · mask · columnsᵀ.

    Args:
        first: `[D, 2]` x, y of the pixel that each starts with.
    """
    rows = _weights(boxes[:, 1], boxes[:, 3], first[:, 1], height, masks.shape[1])
    return rows, _weights(boxes[:, 0], boxes[:, 2], first[:, 0], width, masks.shape[2])


def _weights(low: Tensor, high: Tensor, first: Tensor, pixels: int, cells: int) -> Tensor:
    """`[D, pixels, cells]`: how much each cell counts in each pixel, along one axis."""
    centre = first[:, None] + torch.arange(pixels, device=low.device, dtype=low.dtype) + 0.5
    extent = (high - low).clamp(min=1e-6)
    place = (centre - low[:, None]) / extent[:, None] * cells - 0.5
    cell = torch.arange(cells, device=low.device, dtype=low.dtype)
    return (1 - (place[:, :, None] - cell).abs()).clamp(min=0)
