"""Pastes the masks of boxes into full-size images (Mask R-CNN, He et al. 2017, section 3.1)."""

import torch
from torch import Tensor

from chordate.ops.boxes import at_least_float32
from chordate.ops.resampling import bilinear_weights

CHUNK = 2**24  # maximum number of values computed at a time: 64 MiB in float32


@torch.no_grad()
def paste_masks(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> Tensor:
    """Resample each mask bilinearly to its box, and apply the threshold.

    The mask is sampled at the centers of the image's pixels. Its cells together fill the box, so there is no shift by
    half a cell. Outside the centers of its outermost cells, the mask fades to 0.

    Args:
        probabilities: `[D, M, M]`, the masks.
        boxes: `[D, 4]` x1, y1, x2, y2 in pixels of the image.
        height, width: size of the image in pixels.
        threshold: probability threshold, above 0.

    Returns:
        `[D, height, width]` bool, whether each pixel's probability is at least `threshold`.
    """
    probabilities = at_least_float32(probabilities)
    boxes = boxes.to(probabilities.dtype)
    pasted = torch.zeros((len(boxes), height, width), dtype=torch.bool, device=boxes.device)
    with torch.autocast(boxes.device.type, enabled=False):  # bfloat16 is too imprecise for pixel positions
        paste = paste_windows if boxes.device.type == "cpu" else paste_chunks
        paste(probabilities, boxes, threshold, pasted)
    return pasted


def paste_chunks(masks: Tensor, boxes: Tensor, threshold: float, pasted: Tensor) -> None:
    """`paste_masks` for GPUs: samples each mask at every pixel of the image, in chunks to limit memory.

    Args:
        masks: `[D, M, M]` probabilities.
        boxes: `[D, 4]` x1, y1, x2, y2 in pixels of the image.
        threshold: probability threshold, above 0.
        pasted: `[D, H, W]` bool, initially False; filled in place.
    """
    height, width = pasted.shape[1:]
    step = max(1, CHUNK // max(1, height * width))
    first = torch.zeros_like(boxes[:, :2])
    for chunk, frames, start, out in zip(*(each.split(step) for each in (masks, boxes, first, pasted))):
        rows, columns = _axis_weights(chunk, frames, start, height, width)
        torch.ge(rows @ chunk @ columns.mT, threshold, out=out)


def paste_windows(masks: Tensor, boxes: Tensor, threshold: float, pasted: Tensor) -> None:
    """`paste_masks` for CPUs: pastes each mask only in a window around its box, since most boxes are small."""
    if not len(boxes):
        return
    limits = torch.tensor([pasted.shape[2], pasted.shape[1]])
    # A mask fades out within half a cell outside its box; 1 px is added for rounding.
    margin = (boxes[:, 2:] - boxes[:, :2]) / (2 * masks.shape[-1]) + 1
    low = (boxes[:, :2] - margin).floor().long().clamp(min=0).minimum(limits)
    high = (boxes[:, 2:] + margin).ceil().long().clamp(min=0).minimum(limits)
    width, height = (high - low).amax(dim=0).tolist()
    step = max(1, CHUNK // max(1, (width + height) * masks.shape[-1]))
    for chunk, frames, first, last, out in zip(*(each.split(step) for each in (masks, boxes, low, high, pasted))):
        rows, columns = _axis_weights(chunk, frames, first, height, width)
        for mask, row, column, (left, top), (right, bottom), image in zip(
            chunk, rows, columns, first.tolist(), last.tolist(), out
        ):
            resampled = row[: bottom - top] @ mask @ column[: right - left].T
            torch.ge(resampled, threshold, out=image[top:bottom, left:right])


def _axis_weights(masks: Tensor, boxes: Tensor, first: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Interpolation weights of the masks' rows, `[D, height, M]`, and columns, `[D, width, M]`.

    Args:
        first: `[D, 2]`, x and y of the first image pixel of each output.
        height, width: size of the outputs in pixels.
    """
    rows = bilinear_weights(boxes[:, 1], boxes[:, 3], first[:, 1], height, masks.shape[1])
    return rows, bilinear_weights(boxes[:, 0], boxes[:, 2], first[:, 0], width, masks.shape[2])
