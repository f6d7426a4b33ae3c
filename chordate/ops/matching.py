"""Matching: which ground-truth box each anchor or proposal answers for, for a whole padded batch at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from chordate.ops.boxes import area, at_least_float32
from chordate.structures import InstanceTargets

# Ground-truth boxes compared with all candidates at a time: more at once would be fewer kernels on a GPU, but
# all at once, images x ground truth x anchors, is gigabytes.
GROUP = 8


@dataclass
class Matches:
    """What `N x A` candidates answer for; one that is neither positive nor negative is ignored.

    Attributes:
        index: `[N, A]` int64, the slot of the ground truth that overlaps most (0 where none does).
        positive: `[N, A]` bool, learns the class and box of that ground truth.
        negative: `[N, A]` bool, learns that there is nothing.
    """

    index: Tensor
    positive: Tensor
    negative: Tensor


@dataclass(frozen=True)
class Matcher:
    """Divides candidates by their best overlap (IoU) with the ground truth of their image.

    Args:
        positive: from this IoU on a candidate is positive.
        negative: below this IoU a candidate is negative; between the two it is ignored.
        low_quality: the candidates with the highest IoU of a ground truth (all that tie, and above 0) are
            positive too, whatever that IoU is. Each answers for *its own* best ground truth (Faster R-CNN,
            section 3.1.2, in the reading of Detectron2 and torchvision).
        crowd: a candidate that lies in a crowd region to at least this part of its area is not negative
            (Detectron's CROWD_FILTER_THRESH). No candidate is ever positive for a crowd.
    """

    positive: float
    negative: float
    low_quality: bool = False
    crowd: float = 0.7

    @torch.no_grad()
    def __call__(self, candidates: Tensor, targets: InstanceTargets) -> Matches:
        """Match `candidates` `[N, A, 4]`, or `[1, A, 4]` when all images share them."""
        boxes, single, crowd = targets.boxes, targets.valid & ~targets.crowd, targets.valid & targets.crowd
        boxes = at_least_float32(boxes).to(candidates.dtype)
        has_crowd = True
        if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
            # Looking at the data costs nothing here, and saves the work on slots that hold nothing.
            used = int(targets.valid.any(dim=0).nonzero().amax()) + 1 if bool(targets.valid.any()) else 0
            boxes, single, crowd = boxes[:, :used], single[:, :used], crowd[:, :used]
            has_crowd = bool(crowd.any())

        shape = (boxes.shape[0], candidates.shape[1])
        best = candidates.new_zeros(shape)
        index = torch.zeros(shape, dtype=torch.int64, device=candidates.device)
        low = torch.zeros(shape, dtype=torch.bool, device=candidates.device)
        covered = torch.zeros_like(low)
        candidate_area = area(candidates)[:, None]
        for start in range(0, boxes.shape[1], GROUP):
            some = slice(start, start + GROUP)
            shared = _intersection(boxes[:, some], candidates)
            union = area(boxes[:, some])[:, :, None] + candidate_area - shared
            iou = torch.where(single[:, some, None] & (shared > 0), shared / union, 0.0)
            iou_here, index_here = iou.max(dim=1)
            index = torch.where(iou_here > best, index_here + start, index)
            best = torch.maximum(best, iou_here)
            if self.low_quality:
                peak = iou.amax(dim=2, keepdim=True)
                low |= ((iou == peak) & (peak > 0)).any(dim=1)
            if has_crowd:
                inside = (shared >= self.crowd * candidate_area) & (shared > 0)
                covered |= (inside & crowd[:, some, None]).any(dim=1)

        positive = ((best >= self.positive) & (best > 0)) | low
        return Matches(index, positive, (best < self.negative) & ~positive & ~covered)


def _intersection(boxes: Tensor, candidates: Tensor) -> Tensor:
    """Areas shared by `[N, G, 4]` and `[N, A, 4]`, `[N, G, A]` in pixels squared."""
    x1, y1, x2, y2 = boxes[:, :, None].unbind(-1)
    a1, b1, a2, b2 = candidates[:, None].unbind(-1)
    width = torch.minimum(x2, a2) - torch.maximum(x1, a1)
    height = torch.minimum(y2, b2) - torch.maximum(y1, b1)
    return width.clamp(min=0) * height.clamp(min=0)
