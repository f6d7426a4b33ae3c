"""Box operations on padded batches: area, clipping, and encoding as deltas from reference boxes (anchors, proposals).

Boxes are `x1, y1, x2, y2` in the last dimension, in continuous pixel coordinates. `encode` and `decode` convert
half-precision inputs to float32; float64 stays float64.
"""

import math

import torch
from torch import Tensor

# Upper limit of predicted dw and dh, so that exp() stays finite: a box of 16 px (one cell at stride 16) is scaled to
# 1000 px at most (Detectron's BBOX_XFORM_CLIP).
MAX_LOG_RATIO = math.log(1000.0 / 16)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert `x` to float32, unless it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def area(boxes: Tensor) -> Tensor:
    """Areas `[...]` of boxes `[..., 4]` in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def is_nonempty(boxes: Tensor, min_side: float) -> Tensor:
    """`[...]` bool, whether both sides of each box `[..., 4]` are ≥ `min_side` pixels; false for NaN coordinates."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= min_side).all(dim=-1)


def clip_boxes_to_image(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes `[..., 4]` to images with heights and widths `sizes` `[..., 2]`; leading dimensions broadcast."""
    limits = sizes.flip(-1).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), torch.cat((limits, limits), dim=-1))


def encode(boxes: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Encode `boxes` as deltas from `references`, all `[..., 4]` (R-CNN, Girshick et al. 2014, appendix C).

    Args:
        weights: factors of dx, dy, dw, dh that scale their variances to about 1.

    Sides shorter than 1e-6 px (padding) are treated as 1e-6 px, so that every delta is finite.
    """
    boxes, references = at_least_float32(boxes), at_least_float32(references)
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
    reference_size = (references[..., 2:] - references[..., :2]).clamp(min=1e-6)
    center = boxes[..., :2] + 0.5 * size
    reference_center = references[..., :2] + 0.5 * reference_size
    shift = (center - reference_center) / reference_size
    growth = torch.log(size / reference_size)
    dx, dy = shift.unbind(-1)
    dw, dh = growth.unbind(-1)
    return torch.stack((dx * weights[0], dy * weights[1], dw * weights[2], dh * weights[3]), dim=-1)


def decode(deltas: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Apply `deltas` `[..., 4]` to `references` `[..., 4]`: the inverse of `encode`.

    `weights` are those of `encode`. dw and dh are clamped to at most log(1000 / 16). Leading dimensions broadcast.
    """
    deltas, references = at_least_float32(deltas), at_least_float32(references)
    width = references[..., 2] - references[..., 0]
    height = references[..., 3] - references[..., 1]
    dx, dy, dw, dh = deltas.unbind(-1)
    x = dx / weights[0] * width + (references[..., 0] + 0.5 * width)
    y = dy / weights[1] * height + (references[..., 1] + 0.5 * height)
    half_width = 0.5 * (torch.exp((dw / weights[2]).clamp(max=MAX_LOG_RATIO)) * width)
    half_height = 0.5 * (torch.exp((dh / weights[3]).clamp(max=MAX_LOG_RATIO)) * height)
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)
