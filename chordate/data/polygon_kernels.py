"""How torchvision's v2 transforms move Polygons, registered when this module is imported.

A vertex is a box without extent, and for boxes v2 has kernels in the same continuous coordinates; they are
used for all but two. What leaves the picture is cut off there and then, so that it cannot come
back when the picture is enlarged later, as its pixels cannot.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from chordate.data.polygons import Polygons
from chordate.errors import ConfigError

KEEP_ALL = (F.horizontal_flip, F.vertical_flip, F.resize)
MAY_CUT = (F.crop, F.center_crop, F.resized_crop, F.pad, F.affine, F.perspective)
ELASTIC_EDGE = 4.0  # pixels; longer edges are split before they are bent
ELASTIC_STEPS = 10  # of the fixed-point iteration; each divides the error by the field's inverse slope


def _moved(functional: Callable[..., Any], polygons: Polygons, *args: Any, **kwargs: Any) -> Polygons:
    vertices = polygons.as_subclass(Tensor)
    points = BoundingBoxes(
        torch.cat([vertices, vertices], 1),
        format=BoundingBoxFormat.XYXY,
        canvas_size=polygons.canvas_size,
        clamping_mode=None,
    )
    moved = functional(points, *args, **kwargs)
    return polygons.wrap(moved.as_subclass(Tensor)[:, :2], polygons, canvas_size=moved.canvas_size)


def _keeping(functional: Callable[..., Any]) -> Callable[..., Polygons]:
    return lambda polygons, *args, **kwargs: _moved(functional, polygons, *args, **kwargs)


def _cutting(functional: Callable[..., Any]) -> Callable[..., Polygons]:
    return lambda polygons, *args, **kwargs: clip(_moved(functional, polygons, *args, **kwargs))


def _refused(functional: Callable[..., Any]) -> Callable[..., Polygons]:
    def refuse(*args: Any, **kwargs: Any) -> Polygons:
        raise ConfigError(f"{functional.__name__} makes several pictures of one; it cannot be used with masks")

    return refuse


def _rotate(
    polygons: Polygons,
    angle: float,
    interpolation: Any = None,
    expand: bool = False,
    center: Any = None,
    fill: Any = None,
) -> Polygons:
    """The boxes' kernel expands the canvas up to a pixel otherwise than the image's, which keeps its centre."""
    moved = _moved(F.rotate, polygons, angle, center=center)
    if expand:
        picture = torch.empty(1, *polygons.canvas_size, device="meta")
        height, width = F.rotate(picture, angle, expand=True, center=center).shape[-2:]
        shift = torch.tensor([width - picture.shape[-1], height - picture.shape[-2]]) / 2
        moved = polygons.wrap(moved.as_subclass(Tensor) + shift, polygons, canvas_size=(height, width))
    return clip(moved)


def _elastic(polygons: Polygons, displacement: Tensor, *args: Any, **kwargs: Any) -> Polygons:
    """The picture's pixel at `p` is taken from `p + field(p)`: a vertex `q` goes where `p + field(p) = q`."""
    polygons = densify(polygons, ELASTIC_EDGE)
    height, width = polygons.canvas_size
    size = torch.tensor([width, height], dtype=torch.float32)
    field = (displacement * size / 2).permute(0, 3, 1, 2)
    target = polygons.as_subclass(Tensor)
    moved = target
    for _ in range(ELASTIC_STEPS):
        grid = (moved / size * 2 - 1)[None, :, None]
        offset = torch.nn.functional.grid_sample(field, grid, padding_mode="border", align_corners=False)
        moved = target - offset[0, :, :, 0].T
    return clip(polygons.wrap(moved, polygons))


def clip(polygons: Polygons) -> Polygons:
    """The part of each ring within the canvas (Sutherland and Hodgman 1974); rings with none are dropped."""
    height, width = polygons.canvas_size
    for axis, bound, sign in ((0, 0.0, 1), (0, float(width), -1), (1, 0.0, 1), (1, float(height), -1)):
        polygons = _clip_side(polygons, axis, bound, sign)
    return polygons


def _clip_side(polygons: Polygons, axis: int, bound: float, sign: int) -> Polygons:
    """Keep what lies where `sign × (coordinate - bound)` is not negative."""
    start, end, ring = polygons.edges()
    inside = sign * (start[:, axis] - bound) >= 0
    if bool(inside.all()):
        return polygons
    following_inside = sign * (end[:, axis] - bound) >= 0
    crossing = inside != following_inside
    run = torch.where(crossing, end[:, axis] - start[:, axis], 1.0)
    crossed = start + ((bound - start[:, axis]) / run)[:, None] * (end - start)
    crossed[:, axis] = bound
    # Each edge gives its first vertex where that is inside, then its crossing where it has one.
    given = torch.stack([inside, crossing], 1)
    sizes = torch.zeros_like(polygons.ring_sizes).index_add_(0, ring, given.sum(1))
    kept = sizes > 0
    return polygons.wrap(
        torch.stack([start, crossed], 1)[given],
        polygons,
        ring_sizes=sizes[kept],
        ring_owner=polygons.ring_owner[kept],
    )


def densify(polygons: Polygons, longest: float) -> Polygons:
    """The same rings with vertices added so that no edge is longer than `longest` pixels."""
    start, end, ring = polygons.edges()
    pieces = ((end - start).norm(dim=1) / longest).ceil().clamp(min=1).long()
    step = torch.arange(int(pieces.sum())) - (pieces.cumsum(0) - pieces).repeat_interleave(pieces)
    part = (step / pieces.repeat_interleave(pieces))[:, None]
    vertices = start.repeat_interleave(pieces, 0) + part * (end - start).repeat_interleave(pieces, 0)
    sizes = torch.zeros_like(polygons.ring_sizes).index_add_(0, ring, pieces)
    return polygons.wrap(vertices, polygons, ring_sizes=sizes)


for _functional in KEEP_ALL:
    F.register_kernel(_functional, Polygons)(_keeping(_functional))
for _functional in MAY_CUT:
    F.register_kernel(_functional, Polygons)(_cutting(_functional))
for _functional in (F.five_crop, F.ten_crop):
    F.register_kernel(_functional, Polygons)(_refused(_functional))
F.register_kernel(F.rotate, Polygons)(_rotate)
F.register_kernel(F.elastic, Polygons)(_elastic)
