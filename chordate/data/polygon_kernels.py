"""Kernels of Polygons for torchvision's v2 functionals, registered when this module is imported.

Polygons are clipped to the image after each transform, so that parts outside the image do not reappear after a later
transform.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from chordate.data.point_kernels import KEEP_ALL, MOVERS, Mover
from chordate.data.polygons import Polygons

ELASTIC_EDGE = 4.0  # in pixels; longer edges are split, since an elastic deformation bends them


def _kernel(functional: Callable[..., Any], mover: Mover) -> Callable[..., Polygons]:
    def moved(polygons: Polygons, *args: Any, **kwargs: Any) -> Polygons:
        if functional is F.elastic:
            polygons = densify(polygons, ELASTIC_EDGE)
        vertices, canvas = mover(polygons.as_subclass(Tensor), polygons.canvas_size, *args, **kwargs)
        moved_polygons = polygons.wrap(vertices, polygons, canvas_size=canvas)
        return moved_polygons if functional in KEEP_ALL else clip(moved_polygons)

    return moved


def clip(polygons: Polygons) -> Polygons:
    """Clip each polygon to the canvas (Sutherland and Hodgman 1974); polygons outside the canvas are dropped."""
    height, width = polygons.canvas_size
    for axis, bound, sign in ((0, 0.0, 1), (0, float(width), -1), (1, 0.0, 1), (1, float(height), -1)):
        polygons = _clip_side(polygons, axis, bound, sign)
    return polygons


def _clip_side(polygons: Polygons, axis: int, bound: float, sign: int) -> Polygons:
    """Keep the part of each polygon with `sign × (coordinate - bound) ≥ 0`."""
    start, end, ring = polygons.edges()
    inside = sign * (start[:, axis] - bound) >= 0
    if bool(inside.all()):
        return polygons
    following_inside = sign * (end[:, axis] - bound) >= 0
    crossing = inside != following_inside
    run = torch.where(crossing, end[:, axis] - start[:, axis], 1.0)
    crossed = start + ((bound - start[:, axis]) / run)[:, None] * (end - start)
    crossed[:, axis] = bound
    # Each edge emits its start point if that is inside, then its intersection with the border if it crosses the border.
    emitted = torch.stack([inside, crossing], 1)
    sizes = torch.zeros_like(polygons.ring_sizes).index_add_(0, ring, emitted.sum(1))
    kept = sizes > 0
    return polygons.wrap(
        torch.stack([start, crossed], 1)[emitted],
        polygons,
        ring_sizes=sizes[kept],
        ring_owner=polygons.ring_owner[kept],
    )


def densify(polygons: Polygons, longest: float) -> Polygons:
    """Add vertices so that no edge is longer than `longest` pixels."""
    start, end, ring = polygons.edges()
    pieces = ((end - start).norm(dim=1) / longest).ceil().clamp(min=1).long()
    step = torch.arange(int(pieces.sum())) - (pieces.cumsum(0) - pieces).repeat_interleave(pieces)
    part = (step / pieces.repeat_interleave(pieces))[:, None]
    vertices = start.repeat_interleave(pieces, 0) + part * (end - start).repeat_interleave(pieces, 0)
    sizes = torch.zeros_like(polygons.ring_sizes).index_add_(0, ring, pieces)
    return polygons.wrap(vertices, polygons, ring_sizes=sizes)


for _functional, _mover in MOVERS.items():
    F.register_kernel(_functional, Polygons)(_kernel(_functional, _mover))
