"""Non-maximum suppression within groups (levels or classes), one opaque operator that compiled graphs keep whole."""

import torch
from torch import Tensor
from torchvision.ops import nms

# Below this many boxes one call with the groups shifted apart beats a call a group on the CPU.
FEW = 1000


@torch.library.custom_op("chordate::grouped_nms", mutates_args=())
def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Greedy NMS for each image and group: a box that overlaps a better one by more than `threshold` goes.

    Args:
        boxes: `[N, K, 4]`; compared in float64, since groups are told apart by moving them far apart, and
            float32 would then round boxes until the wrong ones overlap.
        scores: `[N, K]`, the higher the better.
        groups: `[N, K]` int64, 0 and up; boxes of different groups do not suppress each other.
        valid: `[N, K]` bool, false for slots that hold nothing.
        threshold: IoU, 0 … 1.

    Returns:
        `[N, K]` bool, the valid boxes that stay.
    """
    boxes, scores = boxes.double(), scores.double()  # nms wants one type
    keep = torch.zeros_like(valid)
    if boxes.is_cuda:
        # One kernel an image, and no boolean indexing: empty slots form a group of their own.
        groups = torch.where(valid, groups + 1, 0)
        # NaN and infinite boxes are kept from spoiling the span.
        span = boxes.nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=(1, 2), keepdim=True) * 2 + 1
        apart = boxes + span * groups[..., None]
        for image in range(len(boxes)):
            keep[image].index_fill_(0, nms(apart[image], scores[image], threshold), True)
        return keep & valid
    for image in range(len(boxes)):
        slots = valid[image].nonzero()[:, 0]
        for part in _parts(slots, groups[image][slots]):
            kept = nms(_apart(boxes[image][part], groups[image][part]), scores[image][part], threshold)
            keep[image][part[kept]] = True
    return keep


@grouped_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(valid)


def _parts(slots: Tensor, groups: Tensor) -> list[Tensor]:
    """All slots as one part if they are few, else a part a group: the cost grows with a part's square."""
    if len(slots) <= FEW:
        return [slots]
    order = groups.argsort(stable=True)
    return list(slots[order].split(groups.bincount().tolist()))


def _apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """`[K, 4]` boxes moved so that no two groups touch."""
    if not len(boxes):
        return boxes
    return boxes + (boxes.abs().amax() * 2 + 1) * groups[:, None]
