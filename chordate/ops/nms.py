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
    boxes, scores = boxes.double(), scores.double()  # torchvision's nms wants one type
    suppress = _one_call if boxes.is_cuda else _compacted
    keep = torch.zeros_like(valid)
    for image in range(len(boxes)):
        suppress(boxes[image], scores[image], groups[image], valid[image], threshold, keep[image])
    return keep


@grouped_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(valid)


def _one_call(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, keep: Tensor) -> None:
    """For GPUs: one kernel an image, and no indexing that waits for the device. Fills `keep`, `[K]`."""
    groups = torch.where(valid, groups + 1, 0)  # empty slots are a group of their own
    boxes = torch.where(valid[:, None], boxes, 0.0)
    keep.index_fill_(0, nms(_apart(boxes, groups), scores, threshold), True)
    keep &= valid


def _compacted(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, keep: Tensor) -> None:
    """For CPUs: valid boxes alone, and if they are many a call a group, as the cost grows with the square."""
    slots = valid.nonzero()[:, 0]
    parts = [slots]
    if len(slots) > FEW:
        of_slots = groups[slots]
        parts = list(slots[of_slots.argsort(stable=True)].split(of_slots.bincount().tolist()))
    for part in parts:
        kept = nms(_apart(boxes[part], groups[part]), scores[part], threshold)
        keep[part[kept]] = True


def _apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """`[K, 4]` boxes moved so that no two groups touch."""
    if not len(boxes):
        return boxes
    return boxes + (boxes.abs().amax() * 2 + 1) * groups[:, None]
