"""Box encoding and decoding: equal to torchvision's, and inverse to each other."""

import pytest
import torch
from detection_toys import random_boxes
from hypothesis import given
from hypothesis import strategies as st
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder

from chordate.ops.boxes import MAX_LOG_RATIO, area, clip_boxes_to_image, decode, encode, is_nonempty

FAST_RCNN = (10.0, 10.0, 5.0, 5.0)


@given(seed=st.integers(0, 10_000), weights=st.sampled_from([(1.0, 1.0, 1.0, 1.0), FAST_RCNN]))
def test_decoding_boxes_inverts_encoding(seed, weights):
    generator = torch.Generator().manual_seed(seed)
    boxes, references = (random_boxes(3, 20, generator=generator).double() for _ in range(2))
    torch.testing.assert_close(decode(encode(boxes, references, weights), references, weights), boxes)


def test_encoding_and_decoding_boxes_equal_torchvisions():
    torch.manual_seed(0)
    boxes, references, deltas = random_boxes(50), random_boxes(50), torch.randn(50, 4) * 4
    coder = BoxCoder(FAST_RCNN)
    torch.testing.assert_close(encode(boxes, references, FAST_RCNN), coder.encode_single(boxes, references))
    torch.testing.assert_close(decode(deltas, references, FAST_RCNN), coder.decode_single(deltas, references))


def test_the_growth_of_decoded_boxes_is_limited():
    grown = decode(torch.tensor([0.0, 0, 99, 99]), torch.tensor([0.0, 0, 16, 16]), (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(grown[2] - grown[0], torch.tensor(1000.0))
    assert torch.exp(torch.tensor(MAX_LOG_RATIO)) == pytest.approx(62.5)


def test_deltas_of_padding_are_finite():
    nothing = torch.zeros(4)
    assert encode(nothing, nothing, FAST_RCNN).isfinite().all()
    assert encode(torch.tensor([0.0, 0, 9, 9]), nothing, FAST_RCNN).isfinite().all()


def test_half_precision_is_not_used_for_boxes():
    box = torch.tensor([1001.0, 501, 1003, 503])  # bfloat16 rounds 1001 to 1000 and 1003 to 1004
    decoded = decode(torch.zeros(4, dtype=torch.bfloat16), box, FAST_RCNN)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, box)


def test_clip_and_area_equal_torchvisions():
    torch.manual_seed(0)
    boxes = random_boxes(2, 50) * 2 - 100
    sizes = torch.tensor([[90, 120], [200, 64]])
    clipped = clip_boxes_to_image(boxes, sizes[:, None])
    for image, (height, width) in enumerate(sizes.tolist()):
        assert torch.equal(clipped[image], ops.clip_boxes_to_image(boxes[image], (height, width)))
        torch.testing.assert_close(area(boxes[image]), ops.box_area(boxes[image]))


def test_boxes_below_the_minimum_size_or_with_nan_are_empty():
    boxes = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 0.5], [0, 0, float("nan"), 2], [3, 3, 1, 9]])
    assert is_nonempty(boxes, 1.0).tolist() == [True, False, False, False]
