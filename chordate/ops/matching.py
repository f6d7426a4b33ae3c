"""Matches anchors or proposals to ground-truth boxes, for all images of a padded batch at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from chordate.ops.boxes import area, at_least_float32
from chordate.structures import InstanceTargets

# Number of ground-truth boxes per image that are compared with all candidates at a time. Larger groups need fewer
# kernel launches on a GPU, but comparing all boxes at once (images x ground truth x anchors) takes gigabytes.
GROUP = 8


@dataclass
class Matches:
    """Matches of `A` candidates in each of `N` images. Candidates that are neither positive nor negative are ignored.

    Attributes:
        gt_index: `[N, A]` int64, index of the target with the highest IoU (0 if none overlaps).
        positive: `[N, A]` bool, whether the candidate is trained on the class and box of this target.
        negative: `[N, A]` bool, whether the candidate is trained as background.
    """

    gt_index: Tensor
    positive: Tensor
    negative: Tensor


@dataclass(frozen=True)
class Matcher:
    """Labels candidates as positive, negative or ignored by their highest IoU with the ground truth of their image.

    Args:
        positive: candidates with at least this IoU are positive.
        negative: candidates below this IoU are negative; candidates between the two thresholds are ignored.
        low_quality: whether the best candidates of each target (the highest IoU, including ties) are also positive
            (low-quality matches; Faster R-CNN, section 3.1.2). As in Detectron2 and torchvision, such a candidate is
            matched to the target with which the candidate has its highest IoU, which may be another target.
        low_quality_iou: minimum IoU of low-quality matches, which must also be above 0.
        crowd: a candidate with at least this fraction of its area in a crowd region is ignored instead of negative
            (Detectron's CROWD_FILTER_THRESH). Candidates are never matched to crowds.
    """

    positive: float
    negative: float
    low_quality: bool = False
    low_quality_iou: float = 0.0
    crowd: float = 0.7

    @torch.no_grad()
    def __call__(self, candidates: Tensor, targets: InstanceTargets) -> Matches:
        """Match `candidates` `[N, A, 4]`, or `[1, A, 4]` if they are the same for all images."""
        boxes, single, crowd = targets.boxes, targets.valid & ~targets.crowd, targets.valid & targets.crowd
        boxes = at_least_float32(boxes).to(candidates.dtype)
        has_crowd = True
        if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
            # On the CPU, reading values needs no sync, so the number of valid targets can be read and padding skipped.
            used = int(targets.valid.any(dim=0).nonzero().amax()) + 1 if bool(targets.valid.any()) else 0
            boxes, single, crowd = boxes[:, :used], single[:, :used], crowd[:, :used]
            has_crowd = bool(crowd.any())

        shape = (boxes.shape[0], candidates.shape[1])
        best = candidates.new_zeros(shape)
        gt_index = torch.zeros(shape, dtype=torch.int64, device=candidates.device)
        low = torch.zeros(shape, dtype=torch.bool, device=candidates.device)
        covered = torch.zeros_like(low)
        candidate_area = area(candidates)[:, None]
        for start in range(0, boxes.shape[1], GROUP):
            group = slice(start, start + GROUP)
            x1, y1, x2, y2 = boxes[:, group, None].unbind(-1)
            a1, b1, a2, b2 = candidates[:, None].unbind(-1)
            width = (torch.minimum(x2, a2) - torch.maximum(x1, a1)).clamp(min=0)
            height = (torch.minimum(y2, b2) - torch.maximum(y1, b1)).clamp(min=0)
            shared = width * height  # [N, GROUP, A]
            union = area(boxes[:, group])[:, :, None] + candidate_area - shared
            iou = torch.where(single[:, group, None] & (shared > 0), shared / union, 0.0)
            group_best, group_index = iou.max(dim=1)
            gt_index = torch.where(group_best > best, group_index + start, gt_index)
            best = torch.maximum(best, group_best)
            if self.low_quality:
                peak = iou.amax(dim=2, keepdim=True)
                low |= ((iou == peak) & (peak > 0) & (peak >= self.low_quality_iou)).any(dim=1)
            if has_crowd:
                inside = (shared >= self.crowd * candidate_area) & (shared > 0)
                covered |= (inside & crowd[:, group, None]).any(dim=1)

        positive = ((best >= self.positive) & (best > 0)) | low
        return Matches(gt_index, positive, (best < self.negative) & ~positive & ~covered)
