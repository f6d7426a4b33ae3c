"""The region proposal network: proposals, training targets, losses and a training step."""

import pytest
import torch
from detection_toys import feature_maps, instances, pyramid
from torchvision.ops import box_iou

from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.heads.anchor_head import BOX_WEIGHTS, AnchorOutputs
from chordate.heads.rpn import RPNHead
from chordate.ops.boxes import encode

SIDE = 128
SIZES = torch.tensor([[SIDE, SIDE], [100, 90]])


def dense(head: RPNHead, images: int = 2) -> AnchorOutputs:
    """RPN outputs with zero deltas, and equal scores at every anchor."""
    outputs = head({name: torch.zeros_like(x) for name, x in feature_maps(SIDE, images=images).items()})
    return AnchorOutputs(outputs.logits.detach(), outputs.deltas.detach(), outputs.anchors, outputs.counts)


def test_outputs_are_in_the_order_of_the_anchors():
    """Weights are 0 except for one anchor shape, and the input is 0 except in one cell; the highest-scoring anchor has
    this shape and is at this cell."""
    head = RPNHead(pyramid(levels=1), convs=0)
    torch.nn.init.zeros_(head.objectness_logits.weight)
    torch.nn.init.ones_(head.objectness_logits.weight[1])
    maps = {"p2": torch.zeros(1, 16, 4, 5)}
    maps["p2"][0, :, 2, 3] = 1.0
    outputs = head(maps)
    best = outputs.anchors[outputs.logits[0].argmax()]
    assert ((best[:2] + best[2:]) / 2).tolist() == [3 * 4, 2 * 4]
    assert (best[2:] - best[:2]).tolist() == [32, 32], "the second shape is the square"


def test_proposals_are_the_decoded_boxes_of_the_best_anchors():
    head = RPNHead(pyramid()).eval()
    outputs = dense(head)
    planted = torch.tensor([[20.0, 30, 50, 70], [60, 10, 90, 25]])
    for rank, (box, anchor) in enumerate(zip(planted, (700, 2000))):
        outputs.logits[0, anchor] = 9.0 - rank
        outputs.deltas[0, anchor] = encode(box, outputs.anchors[anchor], BOX_WEIGHTS)
    proposals = head.predict(outputs, SIZES)
    torch.testing.assert_close(proposals.boxes[0, :2], planted)
    assert proposals.scores[0, :2].tolist() == [9.0, 8.0] and proposals.valid[0, :2].all()


def test_proposals_are_clipped_to_their_image_and_sorted_by_score():
    torch.manual_seed(0)
    head = RPNHead(pyramid(), post_nms_topk=(300, 200)).eval()
    outputs = head(feature_maps(SIDE))
    outputs.logits.data.normal_()
    outputs.deltas.data.normal_(std=0.5)
    proposals = head.predict(outputs, SIZES)
    assert proposals.boxes.shape == (2, 200, 4)
    for boxes, scores, valid, (height, width) in zip(
        proposals.boxes, proposals.scores, proposals.valid, SIZES.tolist()
    ):
        boxes, scores = boxes[valid], scores[valid]
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (scores.diff() <= 0).all()
    assert head.predict(outputs, SIZES, training=True).boxes.shape == (2, 300, 4)


def test_no_two_proposals_of_a_level_overlap_beyond_the_threshold():
    torch.manual_seed(0)
    head = RPNHead(pyramid(levels=1), nms_threshold=0.5).eval()
    outputs = head(feature_maps(SIDE, levels=1))
    outputs.logits.data.normal_()
    proposals = head.predict(outputs, SIZES)
    for boxes, valid in zip(proposals.boxes, proposals.valid):
        overlap = box_iou(boxes[valid], boxes[valid]).fill_diagonal_(0)
        assert overlap.max() <= 0.5


def test_a_perfect_network_has_no_loss():
    head = RPNHead(pyramid())
    targets = instances([[[20, 30, 52, 62]], [[10, 10, 80, 70], [5, 5, 30, 60]]])
    outputs = dense(head)
    matches = head.matcher(outputs.anchors[None], targets)
    outputs.logits[:] = torch.where(matches.positive, 50.0, -50.0)
    truth = targets.boxes.gather(1, matches.gt_index[..., None].expand(-1, -1, 4))
    outputs.deltas[:] = encode(truth, outputs.anchors, BOX_WEIGHTS)
    losses = head.loss(outputs, SIZES, targets)
    assert losses["rpn_cls"] < 1e-6 and losses["rpn_box"] < 1e-6


def test_losses_are_means_over_the_sampled_anchors():
    """With zero logits everywhere, the mean loss is log 2, however many anchors are sampled."""
    head = RPNHead(pyramid(), batch_size_per_image=64)
    losses = head.loss(dense(head), SIZES, instances([[[20, 30, 52, 62]], []]))
    torch.testing.assert_close(losses["rpn_cls"], torch.tensor(2.0).log())


def test_images_without_objects_have_a_classification_loss_and_no_box_loss():
    head = RPNHead(pyramid())
    losses = head.loss(head(feature_maps(SIDE)), SIZES, instances([[], []]))
    assert losses["rpn_cls"] > 0 and losses["rpn_box"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert not head.anchor_deltas.weight.grad.any()


def test_anchors_in_a_crowd_are_not_background():
    head = RPNHead(pyramid(), batch_size_per_image=10_000)
    crowd = instances([[[30, 30, 120, 120]]], crowd=[[True]])
    outputs = dense(head, images=1)
    inside = ((outputs.anchors[:, :2] >= 30) & (outputs.anchors[:, 2:] <= 120)).all(dim=1)
    outputs.logits[0, inside] = 50.0  # high objectness inside the crowd box
    losses = head.loss(outputs, SIZES[:1], crowd)
    assert inside.any() and losses["rpn_cls"] <= torch.tensor(2.0).log() + 1e-6


def test_the_convolutions_run_once_per_level_in_a_training_step():
    head = RPNHead(pyramid(), convs=2)
    calls = []
    for conv in head.convs:
        conv.register_forward_hook(lambda *_: calls.append(1))
    outputs = head(feature_maps(SIDE))
    head.loss(outputs, SIZES, instances([[[1, 2, 60, 60]], []]))
    head.predict(outputs, SIZES)
    assert len(calls) == 2 * 5


def test_rpn_levels_with_different_channels_are_refused():
    with pytest.raises(ConfigError, match=r"equal channels .*; got p2 \(16 ch, stride 4\), p3 \(32 ch, stride 8\)"):
        RPNHead({"p2": FeatureSpec(16, 4), "p3": FeatureSpec(32, 8)})


def test_an_unknown_level_is_a_config_error():
    with pytest.raises(ConfigError, match='no "p7"'):
        RPNHead(pyramid(), levels=["p2", "p7"])
