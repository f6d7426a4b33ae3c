"""Rasterizes polygons, sampled exactly at the pixel centers, for all instances of an image at once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chordate.data.polygons import Polygons
from chordate.structures import BITMAP_SIZE


def rasterize(polygons: Polygons, frames: Tensor, height: int, width: int) -> Tensor:
    """Rasterize each instance to a bitmap of its frame, a part of the image.

    A pixel is 1 if the winding number at its center is not zero. The winding numbers are computed per row of pixels:
    every edge that crosses the row's center line adds ±1 to all pixel centers to the right of the crossing.

    Args:
        polygons: polygons of `M` instances.
        frames: `[M, 4]`, x1, y1, x2, y2 in pixels, the part of the image that each bitmap covers.
        height, width: size of the bitmaps, in pixels.

    Returns:
        `[M, height, width]` uint8, 0 or 1.
    """
    start, end, ring = polygons.edges()
    owner = polygons.ring_owner[ring]
    corner = frames[:, :2].double()
    # `clamp` avoids a division by zero for a frame without area.
    scale = torch.tensor([width, height]) / (frames[:, 2:].double() - corner).clamp(min=1e-9)
    a = ((start - corner[owner]) * scale[owner]).numpy()
    b = ((end - corner[owner]) * scale[owner]).numpy()
    edge, row = _rows_crossed(a[:, 1], b[:, 1], height)
    ax, ay, bx, by = a[edge, 0], a[edge, 1], b[edge, 0], b[edge, 1]
    x = ax + (row + 0.5 - ay) * (bx - ax) / (by - ay)
    column = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
    winding = np.zeros((polygons.count, height, width + 1), np.int8)
    np.add.at(winding, (owner.numpy()[edge], row, column), np.where(by > ay, np.int8(-1), np.int8(1)))
    np.cumsum(winding, axis=2, dtype=np.int8, out=winding)
    return torch.from_numpy((winding[:, :, :width] != 0).view(np.uint8))


def instance_bitmaps(polygons: Polygons, boxes: Tensor) -> Tensor:
    """Rasterize instances within their `boxes` `[M, 4]`, to `[M, 112, 112]` bitmaps for `InstanceTargets.masks`."""
    return rasterize(polygons, boxes, BITMAP_SIZE, BITMAP_SIZE)


def _rows_crossed(
    from_y: NDArray[np.floating], to_y: NDArray[np.floating], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find all pairs of an edge and a pixel row whose center line the edge crosses; returns edge and row indices."""
    first = np.ceil(np.minimum(from_y, to_y) - 0.5).clip(0, height).astype(np.int64)
    after = np.ceil(np.maximum(from_y, to_y) - 0.5).clip(0, height).astype(np.int64)
    count = after - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    return edge, row
