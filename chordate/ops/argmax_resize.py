"""Resizes logits to the image size, and takes the argmax per pixel, in chunks to limit memory."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.ops.boxes import at_least_float32
from chordate.structures import Batch

CHUNK = 1 << 24  # maximum number of resized logits in memory at a time


def argmax_at_original_size(logits: Tensor, batch: Batch) -> list[Tensor]:
    """The top-scoring class at each pixel of the original images, `[H, W]` int16 per image.

    Args:
        logits: `[N, K, h, w]`, of the padded images.
        batch: the batch of images.
    """
    cells, padded = logits.shape[-2:], batch.images.shape[-2:]
    return [
        argmax_resize(own, (info.height, info.width), (size[0] * cells[0] / padded[0], size[1] * cells[1] / padded[1]))
        for own, info, size in zip(logits, batch.infos, batch.sizes.tolist())
    ]


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
    labels = torch.empty(size, dtype=torch.int16, device=logits.device)
    step = max(1, CHUNK // (logits.shape[0] * size[1]))
    for start in range(0, size[0], step):
        rows = range(start, min(start + step, size[0]))
        resized = _resize_columns(_resize_rows(logits, rows, size[0], used[0]), size[1], used[1])
        labels[rows.start : rows.stop] = resized.max(dim=0).indices.short()  # on CPUs, several times faster than argmax
    return labels


def resize_logits(logits: Tensor, size: tuple[int, int], used: tuple[float, float]) -> Tensor:
    """The logits `[K, H, W]` whose argmax is `argmax_resize(logits, size, used)`."""
    logits = at_least_float32(logits)
    return _resize_columns(_resize_rows(logits, range(size[0]), size[0], used[0]), size[1], used[1])


def sample_logits(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Interpolate logits bilinearly (borders are replicated).

    Args:
        logits: `[K, h, w]`.
        y, x: `[H]` and `[W]`, positions in cells; the center of the first cell is 0.

    Returns:
        `[K, H, W]`.
    """
    height, width = logits.shape[1:]
    rows, columns = torch.meshgrid((2 * y + 1) / height - 1, (2 * x + 1) / width - 1, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)
    return F.grid_sample(logits[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]


def _resize_rows(logits: Tensor, rows: range, height: int, used: float) -> Tensor:
    """Resize the first `used` rows of the logits (the rest is padding) to `height` rows, and compute only `rows` of
    these; the width is kept."""
    centers = torch.arange(rows.start, rows.stop, device=logits.device, dtype=logits.dtype) + 0.5
    cells = logits.shape[1]
    position = (centers * (used / height) - 0.5).clamp(0, cells - 1)
    first = position.floor().long()
    second = (first + 1).clamp(max=cells - 1)
    return torch.lerp(logits.index_select(1, first), logits.index_select(1, second), (position - first)[:, None])


def _resize_columns(logits: Tensor, width: int, used: float) -> Tensor:
    """Resize the first `used` columns of the logits (the rest is padding) to `width` columns; the height is kept."""
    if math.isclose(used, logits.shape[2]):
        return F.interpolate(logits[None], (logits.shape[1], width), mode="bilinear")[0]
    return F.interpolate(logits[None], scale_factor=(1.0, width / used), mode="bilinear")[0, :, :, :width]
