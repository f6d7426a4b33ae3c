"""Kernels that transform points in continuous coordinates (vertices, keypoints) for torchvision's v2 functionals.

Points are transformed by v2's box kernels, as boxes of size 0; only rotation and elastic deformation need new kernels.
(v2's KeyPoints refer to pixel centers: a flip maps `x` to `W - 1 - x`, and resizing by `s` shifts the points by
`(s - 1) / 2` pixels.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from chordate.errors import ConfigError

Canvas = tuple[int, int]  # height and width
Mover = Callable[..., tuple[Tensor, Canvas]]  # points `[V, 2]`, canvas, and the functional's own arguments
ELASTIC_STEPS = 10  # steps of the fixed-point iteration; each multiplies the error by the displacement's slope


def _as_boxes(functional: Callable[..., Any]) -> Mover:
    def moved(points: Tensor, canvas: Canvas, *args: Any, **kwargs: Any) -> tuple[Tensor, Canvas]:
        boxes = BoundingBoxes(
            torch.cat([points, points], 1), format=BoundingBoxFormat.XYXY, canvas_size=canvas, clamping_mode=None
        )
        transformed = functional(boxes, *args, **kwargs)
        return transformed.as_subclass(Tensor)[:, :2], transformed.canvas_size

    return moved


_rotate_boxes = _as_boxes(F.rotate)


def _rotate(
    points: Tensor,
    canvas: Canvas,
    angle: float,
    interpolation: Any = None,
    expand: bool = False,
    center: Any = None,
    fill: Any = None,
) -> tuple[Tensor, Canvas]:
    """Rotate points. Uses the canvas of the image kernel; the box kernel's expanded canvas may differ by a pixel."""
    moved, _ = _rotate_boxes(points, canvas, angle, center=center)
    if not expand:
        return moved, canvas
    image = torch.empty(1, *canvas, device="meta")
    height, width = F.rotate(image, angle, expand=True, center=center).shape[-2:]
    return moved + torch.tensor([width - canvas[1], height - canvas[0]]) / 2, (height, width)


def _elastic(points: Tensor, canvas: Canvas, displacement: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Canvas]:
    """Elastic deformation of points.

    Output pixel `p` is read from `p + field(p)` in the input, so an input point `q` moves to the `p` with
    `p + field(p) = q`.
    """
    size = torch.tensor([canvas[1], canvas[0]], dtype=torch.float32)
    field = (displacement * size / 2).permute(0, 3, 1, 2)
    moved = points
    for _ in range(ELASTIC_STEPS):
        grid = (moved / size * 2 - 1)[None, :, None]
        offset = torch.nn.functional.grid_sample(field, grid, padding_mode="border", align_corners=False)
        moved = points - offset[0, :, :, 0].T
    return moved, canvas


def _reject(functional: Callable[..., Any]) -> Mover:
    def refuse(*args: Any, **kwargs: Any) -> tuple[Tensor, Canvas]:
        name = functional.__name__
        raise ConfigError(f"{name} makes several crops of one image; it cannot be used with masks or keypoints")

    return refuse


# Functionals that keep all points inside the image, and functionals that may move points out of the image.
KEEP_ALL = (F.horizontal_flip, F.vertical_flip, F.resize)
MAY_CUT = (F.crop, F.center_crop, F.resized_crop, F.pad, F.affine, F.perspective)
MOVERS: dict[Callable[..., Any], Mover] = {
    **{functional: _as_boxes(functional) for functional in (*KEEP_ALL, *MAY_CUT)},
    **{functional: _reject(functional) for functional in (F.five_crop, F.ten_crop)},
    F.rotate: _rotate,
    F.elastic: _elastic,
}
