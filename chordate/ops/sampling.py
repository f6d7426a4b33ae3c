"""Sampling: a fixed number of anchors or RoIs an image to learn from, by top-k over masked random keys."""

import torch
from torch import Tensor

from chordate.ops.matching import Matcher
from chordate.structures import InstanceTargets, Proposals, SampledRoIs


@torch.no_grad()
def sample_balanced(
    positive: Tensor, negative: Tensor, count: int, positive_fraction: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw up to `count` of `A` candidates an image, at most `positive_fraction` of them positive.

    Places that positives leave are filled with negatives, where there are enough (Faster R-CNN, section
    3.1.3; Fast R-CNN, section 2.3).

    Args:
        positive, negative: `[N, A]` bool, disjoint.

    Returns:
        `[N, S]` each, with S = min(count, A): the index of a candidate, whether it is a positive one, and
        whether the slot holds anything. Positives come first, in the leading `int(count * positive_fraction)`
        slots; empty slots come last and point at some candidate.
    """
    candidates = positive.shape[1]
    slots = min(count, candidates)
    most = min(int(count * positive_fraction), slots)
    keys = torch.rand(positive.shape, device=positive.device)
    best_positive, positives = torch.where(positive, keys, -1.0).topk(most, dim=1)
    best_negative, negatives = torch.where(negative, keys, -1.0).topk(slots, dim=1)
    found = (best_positive >= 0).sum(dim=1, keepdim=True)
    available = (best_negative >= 0).sum(dim=1, keepdim=True)

    slot = torch.arange(slots, device=positive.device)[None]
    is_positive = slot < found
    valid = slot < found + available
    rank = torch.where(is_positive, slot, slot - found + most)  # in positives and negatives laid end to end
    return torch.cat((positives, negatives), dim=1).gather(1, rank), is_positive, valid


@torch.no_grad()
def sample_rois(
    proposals: Proposals,
    targets: InstanceTargets,
    matcher: Matcher,
    count: int,
    positive_fraction: float,
    background: int,
) -> SampledRoIs:
    """Match the proposals, and the ground-truth boxes themselves, and draw the RoIs that the heads learn from.

    Args:
        count: RoIs an image.
        background: the label that negatives get.
    """
    single = targets.valid & ~targets.crowd
    boxes = torch.cat((proposals.boxes, targets.boxes.to(proposals.boxes.dtype)), dim=1)
    present = torch.cat((proposals.valid, single), dim=1)
    matches = matcher(boxes, targets)
    chosen, positive, valid = sample_balanced(
        matches.positive & present, matches.negative & present, count, positive_fraction
    )
    index = matches.index.gather(1, chosen)
    return SampledRoIs(
        boxes=boxes.gather(1, chosen[..., None].expand(-1, -1, 4)),
        labels=torch.where(positive, targets.labels.gather(1, index), background),
        gt_index=index,
        is_foreground=positive,
        valid=valid,
        sizes=proposals.sizes,
        max_positives=min(int(count * positive_fraction), positive.shape[1]),
    )
