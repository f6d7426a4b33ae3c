"""Non-maximum suppression within the groups (levels or classes) of each image, and selection of detections."""

import torch
from torch import Tensor
from torchvision.ops import nms

from chordate.libraries import HAS_TRITON
from chordate.structures import Detections, PaddedDetections

# Up to this many boxes per image, one call for all groups (shifted apart) is faster than one call per group.
ONE_CALL_BOXES = 1000


# Registered as a custom operator, since its data-dependent control flow would break compiled graphs.
@torch.library.custom_op("chordate::batched_nms", mutates_args=())
def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, image: Tensor, threshold: float) -> Tensor:
    """Greedy NMS within each group of each image: removes boxes that overlap a higher-scoring one by more than
    `threshold`.

    Args:
        boxes: `[M, 4]` x1, y1, x2, y2; compared in float64.
        scores: `[M]`, higher is better.
        groups: `[M]` int64; boxes of different groups do not suppress each other; a negative group marks padding.
        image: `[M]` int64 in ascending order, image index of each box.
        threshold: IoU threshold, 0 … 1.

    Returns:
        `[M]` bool, whether to keep each box.
    """
    if boxes.is_cuda and HAS_TRITON:
        from chordate.ops.nms_gpu import batched_nms_gpu

        return batched_nms_gpu(boxes, scores, groups, image, threshold)
    keep = torch.zeros_like(groups, dtype=torch.bool)
    boxes, scores = boxes.double(), scores.double()  # torchvision's nms requires equal dtypes
    for rows in zip(*(values.split(torch.bincount(image).tolist()) for values in (boxes, scores, groups, keep))):
        _suppress(threshold, *rows)
    return keep


@batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, image: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(groups, dtype=torch.bool)


# Registered as a custom operator, so that exporters can replace it by the implementation of their format.
@torch.library.custom_op("chordate::padded_nms", mutates_args=())
def padded_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """`batched_nms` for images with the same number of boxes.

    Args:
        boxes: `[N, K, 4]` x1, y1, x2, y2; compared in float64.
        scores: `[N, K]`, higher is better.
        groups: `[N, K]` int64; a negative group marks padding.
        threshold: IoU threshold, 0 … 1.

    Returns:
        `[N, K]` bool, whether to keep each box.
    """
    if boxes.is_cuda and HAS_TRITON:
        from chordate.ops.nms_gpu import batched_nms_gpu

        image = torch.arange(len(scores), device=scores.device)[:, None].expand_as(scores)
        rows = boxes.flatten(0, 1), scores.flatten(), groups.flatten(), image.flatten()
        return batched_nms_gpu(*rows, threshold).view_as(groups)
    keep = torch.zeros_like(groups, dtype=torch.bool)
    for rows in zip(boxes.double(), scores.double(), groups, keep):
        _suppress(threshold, *rows)
    return keep


@padded_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(groups, dtype=torch.bool)


def select_padded(boxes: Tensor, scores: Tensor, labels: Tensor, nms_threshold: float, topk: int) -> PaddedDetections:
    """`select_detections` for the same number of candidates per image, with shapes that do not depend on values.

    Args:
        boxes: `[N, K, 4]`.
        scores: `[N, K]`, above 0.
        labels: `[N, K]` int64; -1 marks padding.
        nms_threshold, topk: as in `select_detections`.
    """
    keep = padded_nms(boxes, scores, labels, nms_threshold)
    scores, best = torch.where(keep, scores, 0.0).topk(min(topk, labels.shape[1]), dim=1)
    present = scores > 0
    boxes = torch.where(present[..., None], boxes.gather(1, best[..., None].expand(-1, -1, 4)), 0.0)
    return PaddedDetections(boxes, scores, torch.where(present, labels.gather(1, best), -1))


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    image: Tensor,
    num_images: int,
    nms_threshold: float,
    topk: int,
) -> list[Detections]:
    """Apply NMS within each class, then keep the `topk` highest-scoring detections of each image.

    Args:
        boxes, scores, labels: `[M, 4]`, `[M]`, `[M]`.
        image: `[M]` int64 in ascending order, image index of each box.
        num_images: number of images in the batch.
        nms_threshold: IoU above which the lower-scoring of two boxes of a class is removed.
        topk: maximum number of detections per image.

    Returns:
        One Detections per image, sorted by descending score.
    """
    kept = batched_nms(boxes, scores, labels, image, nms_threshold).nonzero()[:, 0]
    detections = []
    for rows in kept.split(torch.bincount(image[kept], minlength=num_images).tolist()):
        best, order = scores[rows].topk(min(topk, len(rows)))
        rows = rows[order]
        detections.append(Detections(boxes[rows], best, labels[rows]))
    return detections


def _suppress(threshold: float, boxes: Tensor, scores: Tensor, groups: Tensor, keep: Tensor) -> None:
    """Apply NMS to one image's boxes, and set `keep` `[K]` to True for the boxes that remain.

    Groups are moved apart, so that they do not overlap; this is done in float64, since rounding in float32 could change
    overlaps. With many boxes, NMS is called once per group, since its cost is quadratic.
    """
    rows = (groups >= 0).nonzero()[:, 0]
    if not len(rows):
        return
    parts = [rows]
    if len(rows) > ONE_CALL_BOXES:
        groups_of_rows = groups[rows]
        counts = groups_of_rows.unique(return_counts=True)[1].tolist()
        parts = list(rows[groups_of_rows.argsort(stable=True)].split(counts))
    for part in parts:
        apart = boxes[part] + (boxes[part].abs().amax() * 2 + 1) * groups[part, None]
        keep[part[nms(apart, scores[part], threshold)]] = True
