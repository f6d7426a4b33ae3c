"""Detection losses compared with their formulas."""

import pytest
import torch
from detection_toys import pyramid, random_boxes
from torchvision.ops import generalized_box_iou_loss

from chordate.errors import ConfigError
from chordate.ops.boxes import decode, encode
from chordate.ops.losses import BoxLoss, giou_loss, masked_mean
from chordate.registry import HEADS

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1_is_quadratic_below_beta_and_linear_above(beta):
    torch.manual_seed(0)
    references, boxes, deltas = random_boxes(30), random_boxes(30), torch.randn(30, 4)
    gap = (deltas - encode(boxes, references, WEIGHTS)).abs()
    square = gap**2 / (2 * beta) if beta else gap
    wanted = torch.where(gap < beta, square, gap - beta / 2).sum(dim=1)
    torch.testing.assert_close(BoxLoss("smooth_l1", beta, WEIGHTS)(deltas, references, boxes), wanted)


def test_giou_loss_compares_the_decoded_boxes():
    """The loss is 1 - IoU + (C - union) / C, where C (`enclosing` below) is the area of the smallest enclosing box
    (Rezatofighi et al. 2019, algorithm 1)."""
    torch.manual_seed(0)
    references, boxes, deltas = random_boxes(30), random_boxes(30), torch.randn(30, 4)
    found = decode(deltas, references, WEIGHTS)
    wanted = []
    for (a1, b1, a2, b2), (c1, d1, c2, d2) in zip(found.tolist(), boxes.tolist()):
        shared = max(0, min(a2, c2) - max(a1, c1)) * max(0, min(b2, d2) - max(b1, d1))
        union = (a2 - a1) * (b2 - b1) + (c2 - c1) * (d2 - d1) - shared
        enclosing = (max(a2, c2) - min(a1, c1)) * (max(b2, d2) - min(b1, d1))
        wanted.append(1 - shared / union + (enclosing - union) / enclosing)
    torch.testing.assert_close(BoxLoss("giou", 0.0, WEIGHTS)(deltas, references, boxes), torch.tensor(wanted))


def test_giou_and_its_gradient_equal_torchvisions():
    torch.manual_seed(0)
    found, boxes = random_boxes(50).requires_grad_(), random_boxes(50)
    ours, theirs = giou_loss(found, boxes), generalized_box_iou_loss(found, boxes)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), found)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_no_shape_depends_on_the_data(kind):
    compiled = torch.compile(BoxLoss(kind, 0.0, WEIGHTS), fullgraph=True, backend="aot_eager")
    assert compiled(torch.zeros(9, 4, requires_grad=True), random_boxes(9), random_boxes(9)).shape == (9,)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_a_perfect_prediction_has_a_loss_of_zero(kind):
    references, boxes = random_boxes(10), random_boxes(10)
    loss = BoxLoss(kind, 0.0, WEIGHTS)(encode(boxes, references, WEIGHTS), references, boxes)
    torch.testing.assert_close(loss, torch.zeros(10), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_padding_has_finite_gradients(kind):
    deltas = torch.zeros(1, 4, requires_grad=True)
    loss = BoxLoss(kind, 0.0, WEIGHTS)(deltas, torch.zeros(1, 4), torch.zeros(1, 4))
    torch.where(torch.tensor([False]), loss, 0.0).sum().backward()
    assert deltas.grad is not None and not deltas.grad.any()


def test_the_mean_over_no_elements_is_zero_and_keeps_its_gradient():
    values = torch.ones(3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean == 0 and values.grad is not None


def test_an_unknown_loss_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match='box_loss must be one of "smooth_l1", "giou".*got "l3"'):
        HEADS.build({"type": "BoxHead", "box_loss": "l3"}, in_features=pyramid(), num_classes=2)
