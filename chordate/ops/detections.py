"""From scored boxes to the detections of each image: NMS within classes, then the best few."""

import torch
from torch import Tensor

from chordate.ops.nms import grouped_nms
from chordate.structures import Detections


def best_detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    image: Tensor,
    images: int,
    nms_threshold: float,
    most: int,
) -> list[Detections]:
    """Sort `M` candidates of a batch out by image, suppress within each class, and keep the best.

    Args:
        boxes, scores, labels: `[M, 4]`, `[M]`, `[M]`.
        image: `[M]` int64 in ascending order, the image of each candidate.
        images: how many images there are.
        nms_threshold: IoU above which the worse of two boxes of a class goes.
        most: detections an image.

    Returns:
        One Detections an image, best first.
    """
    counts = torch.bincount(image, minlength=images).tolist()
    found = []
    for some_boxes, some_scores, some_labels in zip(
        boxes.split(counts), scores.split(counts), labels.split(counts), strict=True
    ):
        valid = torch.ones_like(some_labels, dtype=torch.bool)
        keep = grouped_nms(some_boxes[None], some_scores[None], some_labels[None], valid[None], nms_threshold)
        kept = keep[0].nonzero()[:, 0]
        best_scores, order = some_scores[kept].topk(min(most, len(kept)))
        chosen = kept[order]
        found.append(Detections(some_boxes[chosen], best_scores, some_labels[chosen]))
    return found
