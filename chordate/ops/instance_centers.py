"""Instance centers and offsets of Panoptic-DeepLab: training targets, pixel weights, and grouping of pixels.

All functions process whole batches, without a loop over instances. Coordinates are (y, x) in pixel indices: the center
of an instance is the mean of the indices of its pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 24  # maximum number of distances in memory at a time


class CenterTargets(NamedTuple):
    """Training targets of a batch.

    Attributes:
        heatmap: `[N, H, W]`, 0 … 1: a Gaussian around each center; where Gaussians overlap, their maximum.
        offsets: `[N, 2, H, W]` (y, x), from each pixel to the center of its instance; 0 where `inside` is False.
        inside: `[N, H, W]` bool, whether a pixel belongs to an instance that has a center.
    """

    heatmap: Tensor
    offsets: Tensor
    inside: Tensor


def center_targets(slots: Tensor, used: Tensor, sigma: float) -> CenterTargets:
    """The targets of Panoptic-DeepLab (Cheng et al. 2020, section 3.1).

    Args:
        slots: `[N, H, W]` integers, index of each pixel's instance, 0 … `G`-1; negative for pixels without an instance.
        used: `[N, G]` bool, which instances are used; the others get neither a center nor offsets.
        sigma: standard deviation of the Gaussians in pixels; they are truncated at 3 `sigma` + 1 pixels (rounded down)
            along each axis.
    """
    (n, height, width), g, device = slots.shape, used.shape[1], slots.device
    image = torch.arange(n, device=device)[:, None]
    row = torch.where(slots >= 0, slots.long() + g * image[..., None], n * g)
    y, x = _coordinates(height, width, device)
    # Float32 is too imprecise for sums of a million coordinates.
    sums = torch.zeros(n * g + 1, 3, dtype=torch.float64, device=device)
    ones = torch.ones_like(y)
    sums.index_add_(0, row.flatten(), torch.stack([y, x, ones], -1).expand(n, -1, -1, -1).flatten(0, 2).double())
    centers = (sums[:, :2] / sums[:, 2:].clamp(min=1)).float()
    present = torch.cat([used.flatten(), used.new_zeros(1)]) & (sums[:, 2] > 0)
    own = centers[row].permute(0, 3, 1, 2)
    inside = present[row]
    offsets = torch.where(inside[:, None], own - torch.stack([y, x]), 0)
    heatmap = _draw_gaussians(centers[:-1].view(n, g, 2), present[:-1].view(n, g), height, width, sigma)
    return CenterTargets(heatmap, offsets, inside)


def _draw_gaussians(centers: Tensor, present: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Heatmap `[N, H, W]` with a Gaussian at each rounded center; `centers` is `[N, G, 2]`, `present` `[N, G]` bool."""
    n, radius = len(centers), int(3 * sigma + 1)
    step = torch.arange(-radius, radius + 1, device=centers.device)
    shape = torch.exp(-(step[:, None] ** 2 + step**2) / (2 * sigma**2))
    y, x = (centers.round().long()[..., axis, None] + step for axis in (0, 1))
    on_canvas = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    image = torch.arange(n, device=centers.device)[:, None, None, None]
    cell = (image * height + y[..., :, None]) * width + x[..., None, :]
    cell = torch.where(on_canvas & present[..., None, None], cell, n * height * width)
    heatmap = torch.zeros(n * height * width + 1, device=centers.device)
    heatmap.scatter_reduce_(0, cell.flatten(), shape.expand(cell.shape).flatten(), "amax")
    return heatmap[:-1].view(n, height, width)


def small_instance_weights(slots: Tensor, count: int, area: int, weight: float) -> Tensor:
    """Weights of the pixels `[N, H, W]` float32 in the semantic loss: `weight` for pixels of small instances, else 1
    (Yang et al. 2019, DeeperLab).

    Args:
        slots: `[N, H, W]` integers, index of each pixel's instance, 0 … `count`-1; negative for pixels without an
            instance.
        count: number of instances per image.
        area: instances with fewer pixels than this are small.
        weight: weight of the pixels of small instances.
    """
    image = torch.arange(len(slots), device=slots.device)[:, None, None]
    row = torch.where(slots >= 0, slots.long() + count * image, len(slots) * count)
    areas = torch.zeros(len(slots) * count + 1, dtype=torch.int64, device=slots.device)
    areas.scatter_add_(0, row.flatten(), torch.ones_like(row).flatten())
    return torch.where((slots >= 0) & (areas[row] < area), weight, 1.0)


class Centers(NamedTuple):
    """The highest-scoring centers of each image, padded to `K` per image.

    Attributes:
        points: `[N, K, 2]` y, x in pixel indices.
        scores: `[N, K]`, heatmap values; -inf for padding.
        valid: `[N, K]` bool, False for padding.
    """

    points: Tensor
    scores: Tensor
    valid: Tensor


def find_centers(heatmap: Tensor, threshold: float, kernel: int, topk: int) -> Centers:
    """Find the highest local maxima of each heatmap (Cheng et al. 2020, section 3.2).

    Args:
        heatmap: `[N, H, W]`.
        threshold: heatmap value that a center must exceed.
        kernel: side of the max-pooling window in pixels, odd; a center is the maximum of its window.
        topk: maximum number of centers per image.
    """
    pooled = F.max_pool2d(heatmap[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]
    scores = torch.where((heatmap == pooled) & (heatmap > threshold), heatmap, -torch.inf)
    scores, cell = scores.flatten(1).topk(min(topk, scores[0].numel()), dim=1)
    points = torch.stack([cell // heatmap.shape[2], cell % heatmap.shape[2]], dim=2)
    return Centers(points.to(heatmap.dtype), scores, scores.isfinite())


def group_pixels(centers: Centers, offsets: Tensor) -> Tensor:
    """Assign each pixel to the center nearest to the pixel plus its offset (Cheng et al. 2020, equation 1).

    The distances to the valid centers are computed in chunks of pixels, at most CHUNK distances at a time. The
    padding of the centers is skipped, which needs a host sync on a GPU.

    Args:
        centers: the centers in each image.
        offsets: `[N, 2, H, W]` (y, x) in pixels.

    Returns:
        `[N, H, W]` int64, index of each pixel's center; -1 in images without centers.
    """
    n, _, height, width = offsets.shape
    votes = (offsets + torch.stack(_coordinates(height, width, offsets.device))).flatten(2).mT
    if torch.compiler.is_exporting():
        nearest = _nearest_exported(votes, torch.where(centers.valid[..., None], centers.points, torch.inf))
    else:
        count = max(1, int(centers.valid.sum(1).max()))  # valid centers come first
        points = torch.where(centers.valid[..., None], centers.points, torch.inf)[:, :count]
        step = max(1, CHUNK // (n * count))
        nearest = torch.empty(n, height * width, dtype=torch.int64, device=offsets.device)
        for votes_part, into in zip(votes.split(step, 1), nearest.split(step, 1)):
            # The faster computation by matrix multiplication has errors of whole pixels in large images.
            distances = torch.cdist(votes_part, points, compute_mode="donot_use_mm_for_euclid_dist")
            into.copy_(distances.argmin(dim=2))
    nearest = torch.where(centers.valid.any(dim=1, keepdim=True), nearest, -1)
    return nearest.view(n, height, width)


def _nearest_exported(votes: Tensor, points: Tensor) -> Tensor:
    """The index of the nearest point to each vote, `[N, P]`, computed with operators that every export format has.

    Args:
        votes: `[N, P, 2]`, pixel positions plus offsets; processed in chunks if the shape is static.
        points: `[N, K, 2]`.
    """
    parts = [votes]
    if not any(isinstance(side, torch.SymInt) for side in votes.shape):
        parts = list(votes.split(max(1, CHUNK // (votes.shape[0] * points.shape[1])), 1))
    return torch.cat([(part[:, :, None] - points[:, None]).square().sum(-1).argmin(2) for part in parts], dim=1)


def majority_classes(groups: Tensor, labels: Tensor, count: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """The most frequent class of each group of pixels; ties go to the lowest class index.

    Args:
        groups: `[N, H, W]`, group of each pixel, 0 … `count`-1; negative for pixels without a group.
        labels: `[N, H, W]`, class of each pixel, 0 … `num_classes`-1.
        count: number of groups per image.
        num_classes: number of classes.

    Returns:
        `[N, count]` int64 classes, and `[N, count]` int64 areas of the groups in pixels. Groups without pixels have
        class 0.
    """
    n = len(groups)
    image = torch.arange(n, device=groups.device)[:, None, None]
    cell = (image * count + groups) * num_classes + labels.long()
    cell = torch.where(groups >= 0, cell, n * count * num_classes)
    votes = torch.zeros(n * count * num_classes + 1, dtype=torch.int64, device=groups.device)
    votes.scatter_add_(0, cell.flatten(), torch.ones_like(cell).flatten())
    votes = votes[:-1].view(n, count, num_classes)
    return votes.argmax(dim=2), votes.sum(dim=2)


def _coordinates(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The y and the x index of each pixel, each `[H, W]` float32."""
    axes = (torch.arange(size, dtype=torch.float32, device=device) for size in (height, width))
    y, x = torch.meshgrid(*axes, indexing="ij")
    return y, x
