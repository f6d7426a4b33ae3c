"""Masks from the frames of their boxes to the whole picture (Mask R-CNN, He et al. 2017, section 3.1, inference)."""

import torch
from torch import Tensor

CHUNK = 2**24  # pixels that are pasted at once: 64 MB in float32


def paste_masks(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> Tensor:
    """Resample each mask bilinearly to its box, and say which pixels are at least `threshold`.

    A pixel is sampled at its centre; the cells of the mask are squares that fill the box, so nothing is moved by half
    a pixel, and beyond the outermost cells' centres the mask fades to 0.

    Args:
        probabilities: `[D, M, M]`.
        boxes: `[D, 4]` x1, y1, x2, y2 in pixels of the picture.
        height, width: of the picture.

    Returns:
        `[D, height, width]` bool.
    """
    parts = [probabilities.new_zeros((0, height, width), dtype=torch.bool)]
    step = max(1, CHUNK // max(1, height * width))
    for masks, frames in zip(probabilities.split(step), boxes.to(probabilities.dtype).split(step)):
        rows = _weights(frames[:, 1], frames[:, 3], height, masks.shape[1])
        columns = _weights(frames[:, 0], frames[:, 2], width, masks.shape[2])
        parts.append(rows @ masks @ columns.mT >= threshold)
    return torch.cat(parts)


def _weights(low: Tensor, high: Tensor, pixels: int, cells: int) -> Tensor:
    """`[D, pixels, cells]`: how much each cell counts in each pixel, along one axis."""
    centre = torch.arange(pixels, device=low.device, dtype=low.dtype) + 0.5
    extent = (high - low).clamp(min=1e-6)
    place = (centre - low[:, None]) / extent[:, None] * cells - 0.5
    cell = torch.arange(cells, device=low.device, dtype=low.dtype)
    return (1 - (place[:, :, None] - cell).abs()).clamp(min=0)
