"""Resizes logits to the image size, and takes the argmax of each pixel chunk by chunk to limit memory."""

from __future__ import annotations

import torch
from torch import Tensor

from chordate.ops.boxes import at_least_float32

CHUNK = 1 << 24  # number of resized logits in memory at a time


def argmax_resize(logits: Tensor, size: tuple[int, int], used: tuple[float, float]) -> Tensor:
    """The top-scoring class at each pixel of an image, with bilinearly interpolated logits (borders are replicated).

    Equal to the argmax of `F.interpolate(logits, size, mode="bilinear")` if the logits have no padding, but only some
    rows of the resized logits are in memory at a time.

    Args:
        logits: `[K, h, w]`.
        size: height and width of the result, in pixels.
        used: height and width of the part of the logits that the image covers, in cells from the top left; the rest is
            padding.

    Returns:
        `[H, W]` int16.
    """
    logits = at_least_float32(logits)
    rows, columns = (_taps(n, extent, cells, logits) for n, extent, cells in zip(size, used, logits.shape[1:]))
    labels = torch.empty(size, dtype=torch.int16, device=logits.device)
    step = max(1, CHUNK // (logits.shape[0] * size[1]))
    for start in range(0, size[0], step):
        own = slice(start, start + step)
        low = _lerp(logits, (rows[0][own], rows[1][own], rows[2][own, None]), dim=1)
        labels[own] = _lerp(low, columns, dim=2).argmax(dim=0).short()
    return labels


def resize_logits(logits: Tensor, size: tuple[int, int], used: tuple[float, float]) -> Tensor:
    """The logits `[K, H, W]` whose argmax is `argmax_resize(logits, size, used)`."""
    logits = at_least_float32(logits)
    rows, columns = (_taps(n, extent, cells, logits) for n, extent, cells in zip(size, used, logits.shape[1:]))
    return _lerp(_lerp(logits, (rows[0], rows[1], rows[2][:, None]), dim=1), columns, dim=2)


def _lerp(x: Tensor, taps: tuple[Tensor, Tensor, Tensor], dim: int) -> Tensor:
    first, second, weight = taps
    return torch.lerp(x.index_select(dim, first), x.index_select(dim, second), weight)


def _taps(pixels: int, extent: float, cells: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel along an axis, the two cells between which it lies, and the weight of the second cell."""
    centers = torch.arange(pixels, device=like.device, dtype=like.dtype) + 0.5
    position = (centers * (extent / pixels) - 0.5).clamp(0, cells - 1)
    first = position.floor().long()
    return first, (first + 1).clamp(max=cells - 1), position - first
