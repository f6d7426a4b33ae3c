"""Non-maximum suppression within the groups (levels or classes) of each image, and the detections that remain."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from chordate.structures import Detections

# Up to this many boxes per image, one call with the groups moved apart is faster on the CPU than one call per group.
ONE_CALL_BOXES = 1000


# An opaque operator, so that compiled graphs stay whole.
@torch.library.custom_op("chordate::batched_nms", mutates_args=())
def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, counts: Sequence[int], threshold: float) -> Tensor:
    """Greedy NMS within each group of each image: removes boxes that overlap a better one by more than `threshold`.

    Args:
        boxes: `[M, 4]`, ordered by image; compared in float64, because groups are separated by moving them far apart,
            where float32 would round boxes until the wrong ones overlap.
        scores: `[M]`, higher is better.
        groups: `[M]` int64; boxes of different groups do not suppress each other, rows with a negative group are empty.
        counts: rows of each image; they sum to `M`.
        threshold: IoU, 0 … 1.

    Returns:
        `[M]` bool, the boxes that stay.
    """
    keep = torch.zeros_like(groups, dtype=torch.bool)
    suppress = _one_call if boxes.is_cuda else _compacted
    boxes, scores = boxes.double(), scores.double()  # torchvision's nms wants one dtype
    for image in zip(*(values.split(counts) for values in (boxes, scores, groups, keep))):
        suppress(*image, threshold)  # type: ignore[call-arg]
    return keep


@batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, counts: Sequence[int], threshold: float) -> Tensor:
    return torch.empty_like(groups, dtype=torch.bool)


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    image: Tensor,
    num_images: int,
    nms_threshold: float,
    topk: int,
) -> list[Detections]:
    """NMS within each class, then the best `topk` detections of each image.

    Args:
        boxes, scores, labels: `[M, 4]`, `[M]`, `[M]`.
        image: `[M]` int64 in ascending order, the image of each box.
        nms_threshold: IoU above which the worse of two boxes of a class is removed.

    Returns:
        One Detections per image, best first.
    """
    counts = torch.bincount(image, minlength=num_images).tolist()
    kept = batched_nms(boxes, scores, labels, counts, nms_threshold).nonzero()[:, 0]
    detections = []
    for rows in kept.split(torch.bincount(image[kept], minlength=num_images).tolist()):
        best, order = scores[rows].topk(min(topk, len(rows)))
        rows = rows[order]
        detections.append(Detections(boxes[rows], best, labels[rows]))
    return detections


def _one_call(boxes: Tensor, scores: Tensor, groups: Tensor, keep: Tensor, threshold: float) -> None:
    """For GPUs: one kernel per image, without indexing that waits for the device. Fills `keep`, `[K]`."""
    if not len(boxes):
        return
    valid = groups >= 0
    groups = torch.where(valid, groups + 1, 0)  # empty rows are a group of their own
    boxes = torch.where(valid[:, None], boxes, 0.0)
    apart = boxes + (boxes.abs().amax() * 2 + 1) * groups[:, None]  # boxes of different groups do not touch
    keep.index_fill_(0, nms(apart, scores, threshold), True)
    keep &= valid


def _compacted(boxes: Tensor, scores: Tensor, groups: Tensor, keep: Tensor, threshold: float) -> None:
    """For CPUs: valid rows only, and one call per group if they are many, since the cost grows with the square."""
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
