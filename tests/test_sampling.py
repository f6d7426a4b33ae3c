"""Sampling of positives and negatives as in Faster R-CNN, section 3.1.3, padded to a fixed size."""

import torch
from detection_toys import instances
from hypothesis import given
from hypothesis import strategies as st

from chordate.ops.matching import Matcher
from chordate.ops.sampling import sample_balanced, sample_rois
from chordate.structures import Proposals


def masks(images: int, candidates: int, positives: int, negatives: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boolean masks of positives (the first candidates) and negatives (the last); candidates in neither are ignored."""
    number = torch.arange(candidates).expand(images, candidates)
    return number < positives, number >= candidates - negatives


@given(
    positives=st.integers(0, 40),
    negatives=st.integers(0, 40),
    ignored=st.integers(0, 5),
    count=st.integers(1, 64),
    fraction=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_positives_are_sampled_up_to_their_fraction_and_filled_up_with_negatives(
    positives, negatives, ignored, count, fraction
):
    total = positives + negatives + ignored
    if total == 0:
        return
    positive, negative = masks(2, total, positives, negatives)
    chosen, is_positive, valid = sample_balanced(positive, negative, count, fraction)
    assert chosen.shape == (2, min(count, total))
    wanted_positive = min(positives, int(count * fraction))
    wanted_negative = min(negatives, count - wanted_positive)
    for image in range(2):
        sampled = chosen[image][valid[image]]
        assert len(sampled.unique()) == len(sampled) == wanted_positive + wanted_negative
        assert is_positive[image].sum() == wanted_positive
        assert is_positive[image, :wanted_positive].all(), "positives come first"
        assert positive[image][chosen[image][is_positive[image]]].all()
        assert negative[image][chosen[image][valid[image] & ~is_positive[image]]].all()


def test_every_candidate_has_the_same_sampling_probability():
    torch.manual_seed(0)
    positive, negative = masks(1, 40, positives=10, negatives=30)
    drawn = torch.zeros(40)
    for _ in range(1000):
        chosen, _, valid = sample_balanced(positive, negative, 16, 0.25)
        drawn[chosen[valid]] += 1
    # Each of 1,000 draws takes 4 of 10 positives and 12 of 30 negatives. The number of draws of a candidate has mean
    # 400 and standard deviation 15.5.
    assert (drawn - 400).abs().max() < 5 * 15.5


def proposals_of(boxes: list[list[float]]) -> Proposals:
    tensor = torch.tensor([boxes])
    return Proposals(
        tensor, torch.zeros(1, len(boxes)), torch.ones(1, len(boxes), dtype=torch.bool), torch.tensor([[100, 100]])
    )


def test_ground_truth_boxes_are_added_to_the_rois():
    proposals = proposals_of([[0.0, 0, 10, 10]])
    targets = instances([[[50, 50, 90, 90], [20, 20, 40, 60]]], labels=[[2, 1]])
    rois = sample_rois(proposals, targets, Matcher(0.5, 0.5), count=8, positive_fraction=0.5, background=5)
    sampled = rois.boxes[rois.is_foreground].tolist()
    assert sorted(sampled) == sorted(targets.boxes[0, :2].tolist())
    for box, label, index in zip(sampled, rois.labels[rois.is_foreground], rois.gt_index[rois.is_foreground]):
        assert targets.boxes[0, index].tolist() == box and targets.labels[0, index] == label
    assert rois.labels[rois.valid & ~rois.is_foreground].tolist() == [5]
    assert rois.valid.sum() == 3


def test_proposals_in_a_crowd_are_neither_foreground_nor_background():
    proposals = proposals_of([[0.0, 0, 10, 10], [55, 55, 65, 65]])
    targets = instances([[[50, 50, 90, 90]]], crowd=[[True]])
    rois = sample_rois(proposals, targets, Matcher(0.5, 0.5), count=8, positive_fraction=0.5, background=5)
    assert rois.boxes[rois.valid].tolist() == [[0, 0, 10, 10]]


def test_only_the_first_rois_are_foreground():
    targets = instances([[[0, 0, 10 + i, 10 + i] for i in range(8)]])
    rois = sample_rois(
        proposals_of([[0.0, 0, 12, 12]] * 20), targets, Matcher(0.5, 0.5), 16, positive_fraction=0.25, background=5
    )
    assert rois.max_positives == 4
    assert rois.is_foreground[:, :4].all() and not rois.is_foreground[:, 4:].any()


def test_invalid_proposals_are_not_sampled():
    proposals = proposals_of([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    proposals.valid[0, 1] = False
    rois = sample_rois(proposals, instances([[]]), Matcher(0.5, 0.5), 4, positive_fraction=0.25, background=5)
    assert rois.boxes[rois.valid].tolist() == [[0, 0, 10, 10]]
