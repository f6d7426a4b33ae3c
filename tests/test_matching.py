"""Matching of anchors to objects: equal to torchvision's Matcher, with padding and crowds, in bounded memory."""

import torch
from detection_toys import instances, random_boxes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_iou

from chordate.ops.anchors import AnchorGenerator
from chordate.ops.matching import GROUP, Matcher


def grid_of_anchors() -> torch.Tensor:
    """Anchors `[A, 4]`, rounded so that many IoUs are equal, which low-quality matching must handle."""
    return torch.cat(AnchorGenerator([8, 16, 32], rounded=True)([(16, 16), (8, 8), (4, 4)], (128, 128)))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    counts=st.lists(st.integers(1, 19), min_size=1, max_size=3),
    thresholds=st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.5, 0.4)]),
    low_quality=st.booleans(),
    whole_pixels=st.booleans(),
)
def test_matches_are_torchvisions(seed, counts, thresholds, low_quality, whole_pixels):
    generator = torch.Generator().manual_seed(seed)
    boxes = [random_boxes(count, span=128, generator=generator) for count in counts]
    if whole_pixels:
        boxes = [(b / 8).round() * 8 + torch.tensor([0.0, 0, 8, 8]) for b in boxes]
    anchors = grid_of_anchors()
    overlaps = [box_iou(b, anchors) for b in boxes]
    assume(all((overlap.amax(dim=1) > 0).all() for overlap in overlaps))
    targets = instances([b.tolist() for b in boxes], slots=24)
    matches = Matcher(*thresholds, low_quality=low_quality)(anchors[None], targets)
    for image, overlap in enumerate(overlaps):
        wanted = TorchvisionMatcher(*thresholds, allow_low_quality_matches=low_quality)(overlap)
        assert torch.equal(matches.positive[image], wanted >= 0)
        assert torch.equal(matches.negative[image], wanted == TorchvisionMatcher.BELOW_LOW_THRESHOLD)
        assert torch.equal(matches.gt_index[image][wanted >= 0], wanted[wanted >= 0])


def test_an_object_that_overlaps_no_anchor_is_not_matched():
    far = instances([[[500, 500, 600, 600]]])
    assert not Matcher(0.7, 0.3, low_quality=True)(grid_of_anchors()[None], far).positive.any()


def test_without_objects_every_anchor_is_negative():
    matches = Matcher(0.7, 0.3, low_quality=True)(grid_of_anchors()[None], instances([[], []]))
    assert matches.negative.all() and not matches.positive.any()


def test_padding_does_not_change_the_matches():
    boxes = random_boxes(5, span=128).tolist()
    unpadded, padded = (
        Matcher(0.5, 0.3, low_quality=True)(grid_of_anchors()[None], instances([boxes], slots=slots))
        for slots in (5, 32)
    )
    assert torch.equal(unpadded.positive, padded.positive) and torch.equal(unpadded.negative, padded.negative)
    assert torch.equal(unpadded.gt_index, padded.gt_index)


def test_box_values_in_the_padding_do_not_change_the_matches():
    targets = instances([[[0, 0, 40, 40]]])
    clean = Matcher(0.5, 0.3, low_quality=True)(grid_of_anchors()[None], targets)
    targets.boxes[0, 1:] = torch.tensor([20.0, 20, 100, 100])
    dirty = Matcher(0.5, 0.3, low_quality=True)(grid_of_anchors()[None], targets)
    assert torch.equal(clean.positive, dirty.positive) and torch.equal(clean.negative, dirty.negative)


def test_anchors_in_a_crowd_are_neither_positive_nor_negative():
    candidates = torch.tensor([[[10.0, 10, 20, 20], [0, 0, 60, 60], [55, 0, 65, 10], [80, 80, 90, 90]]])
    crowd = instances([[[0, 0, 60, 60]]], crowd=[[True]])
    matches = Matcher(0.5, 0.5, low_quality=True)(candidates, crowd)
    assert not matches.positive.any()
    assert matches.negative.tolist() == [[False, False, True, True]]  # only half of the third box is in the crowd


def test_an_object_within_a_crowd_is_still_matched():
    candidates = torch.tensor([[[10.0, 10, 20, 20], [30, 30, 40, 40]]])
    targets = instances([[[0, 0, 60, 60], [10, 10, 20, 20]]], crowd=[[True, False]])
    matches = Matcher(0.5, 0.5)(candidates, targets)
    assert matches.positive.tolist() == [[True, False]] and matches.gt_index[0, 0] == 1
    assert not matches.negative.any()


def test_matching_never_allocates_images_x_objects_x_anchors():
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return out

    anchors = grid_of_anchors()
    targets = instances([random_boxes(64, span=128).tolist()] * 2, slots=64)
    with Largest() as largest:
        Matcher(0.7, 0.3, low_quality=True)(anchors[None], targets)
    assert largest.elements <= 2 * GROUP * len(anchors)


def test_float64_candidates_are_matched_in_float64():
    exactly_half = torch.tensor([[[0.0, 0, 10, 10 + 1e-12]]], dtype=torch.float64)  # in float32, the IoU would be 1/2
    targets = instances([[[0, 0, 10, 5]]])
    assert not Matcher(0.5, 0.5)(exactly_half, targets).positive.any()
    assert Matcher(0.5, 0.5)(exactly_half.float(), targets).positive.all()


def test_low_quality_matches_need_a_minimum_iou():
    """MMDetection's `min_pos_iou`: if an object's highest IoU is lower, its best anchors are not positive."""
    boxes, anchors, lowest = random_boxes(40, span=128), grid_of_anchors(), 0.45
    overlap = box_iou(boxes, anchors)
    best = overlap.amax(dim=1, keepdim=True)
    targets = instances([boxes.tolist()], slots=40)
    # Some objects' highest IoU is below the minimum, others' is between the minimum and 0.7.
    assert 0 < (best < lowest).sum() < (best < 0.7).sum()
    matches = Matcher(0.7, 0.3, low_quality=True, low_quality_iou=lowest)(anchors[None], targets)
    expected = (overlap >= 0.7).any(dim=0) | ((overlap == best) & (best >= lowest)).any(dim=0)
    assert torch.equal(matches.positive[0], expected)
