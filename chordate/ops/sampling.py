"""Samples a fixed number of anchors or RoIs per image for the losses, by top-k of random numbers."""

import torch
from torch import Tensor

from chordate.ops.matching import Matcher
from chordate.structures import InstanceTargets, Proposals, SampledRoIs


@torch.no_grad()
def sample_balanced(
    positive: Tensor, negative: Tensor, count: int, positive_fraction: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample up to `count` of `A` candidates per image, at most `positive_fraction` of them positive.

    Negatives fill the rest, if there are enough (Faster R-CNN, section 3.1.3; Fast R-CNN, section 2.3).

    Args:
        positive, negative: `[N, A]` bool, which candidates are positive and which are negative (disjoint).
        count: maximum number of samples per image.
        positive_fraction: maximum fraction of positives among `count`.

    Returns:
        Three tensors `[N, S]`, with S = min(count, A): index of the sampled candidate, whether it is positive, and
        whether it is valid (not padding). Positives come first, at most `int(count * positive_fraction)`; padding comes
        last, with arbitrary indices.
    """
    candidates = positive.shape[1]
    slots = min(count, candidates)
    max_positives = min(int(count * positive_fraction), slots)
    keys = torch.rand(positive.shape, device=positive.device)
    best_positive, positives = torch.where(positive, keys, -1.0).topk(max_positives, dim=1)
    best_negative, negatives = torch.where(negative, keys, -1.0).topk(slots, dim=1)
    num_positives = (best_positive >= 0).sum(dim=1, keepdim=True)
    num_negatives = (best_negative >= 0).sum(dim=1, keepdim=True)

    slot = torch.arange(slots, device=positive.device)[None]
    is_positive = slot < num_positives
    valid = slot < num_positives + num_negatives
    rank = torch.where(is_positive, slot, slot - num_positives + max_positives)  # column of the tensor below
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
    """Add the ground-truth boxes (without crowds) to the proposals, match all to targets, and sample RoIs for training.

    Args:
        count: maximum number of RoIs per image.
        positive_fraction: maximum fraction of positives among `count`.
        background: the label of negatives.
    """
    single = targets.valid & ~targets.crowd
    boxes = torch.cat((proposals.boxes, targets.boxes.to(proposals.boxes.dtype)), dim=1)
    present = torch.cat((proposals.valid, single), dim=1)
    matches = matcher(boxes, targets)
    chosen, positive, valid = sample_balanced(
        matches.positive & present, matches.negative & present, count, positive_fraction
    )
    gt_index = matches.gt_index.gather(1, chosen)
    return SampledRoIs(
        boxes=boxes.take_along_dim(chosen[..., None], dim=1),
        labels=torch.where(positive, targets.labels.gather(1, gt_index), background),
        gt_index=gt_index,
        is_foreground=positive,
        valid=valid,
        sizes=proposals.sizes,
        max_positives=min(int(count * positive_fraction), positive.shape[1]),
    )
