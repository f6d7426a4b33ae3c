"""The box head: losses on sampled regions, and the selection of detections."""

import pytest
import torch
from detection_toys import feature_maps, instances, pyramid
from torch import nn

from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.heads.box import BoxHead
from chordate.heads.trunk import ConvFC
from chordate.ops.boxes import encode
from chordate.structures import Proposals

SIDE = 128
SIZES = torch.tensor([[SIDE, SIDE], [100, 90]])
CLASSES = 3


def head_of(**settings) -> BoxHead:
    torch.manual_seed(0)
    return BoxHead(pyramid(), CLASSES, **{"trunk": {"type": "ConvFC", "fc_channels": 32}, **settings})


def proposals_of(boxes: list[list[list[float]]]) -> Proposals:
    targets = instances(boxes)
    return Proposals(targets.boxes, torch.zeros(targets.valid.shape), targets.valid, SIZES[: len(boxes)])


class Scripted(BoxHead):
    """A box head that returns the predictions passed to `script`, one per region, in order."""

    def script(self, logits: list[list[float]], deltas: torch.Tensor | None = None) -> "Scripted":
        self.answer = torch.tensor(logits), torch.zeros(len(logits), 1, 4) if deltas is None else deltas
        return self

    def roi_features(self, features, boxes, image):
        return boxes

    def predictions(self, x):
        logits, deltas = self.answer
        return logits[: len(x)], deltas[: len(x)].expand(-1, CLASSES, -1)


def test_box_head_outputs_have_a_row_per_class_and_the_background_last():
    head = head_of()
    logits, deltas = head(feature_maps(SIDE), torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]))
    assert logits.shape == (1, CLASSES + 1) and deltas.shape == (1, CLASSES, 4)
    assert head_of(class_agnostic=True).bbox_pred.out_features == 4


def test_a_perfect_head_has_no_loss():
    head = Scripted(pyramid(), CLASSES, trunk=ConvFC(16, 7, fc_channels=8), batch_size_per_image=4)
    targets = instances([[[10, 10, 50, 60]]], labels=[[2]])
    rois = head.sample(proposals_of([[[12, 8, 48, 66], [90, 90, 120, 120]]]), targets)
    logits = [[-50.0, -50, 50, -50] if positive else [-50.0, -50, -50, 50] for positive in rois.is_foreground[0]]
    truth = targets.boxes[0, 0].expand_as(rois.boxes[0])
    deltas = encode(truth, rois.boxes[0], head.box_weights)[:, None]
    losses = head.script(logits, deltas).loss({}, rois, targets)
    assert rois.is_foreground.sum() >= 1
    assert losses["box_cls"] < 1e-6 and losses["box_reg"] < 1e-6


def test_box_loss_uses_the_true_classs_deltas_and_averages_over_all_regions():
    """Detectron2 and torchvision both divide by the number of sampled regions, including negatives."""
    head = head_of()
    targets = instances([[[10, 10, 50, 60]], [[30, 20, 80, 90]]], labels=[[2], [0]])
    proposals = proposals_of([[[12, 8, 48, 66], [90, 90, 120, 120]], [[0, 0, 20, 20]]])
    features = feature_maps(SIDE)
    rois = head.sample(proposals, targets)
    losses = head.loss(features, rois, targets)
    total, wanted_box, wanted_class = 0, 0.0, 0.0
    for image in range(2):
        for slot in rois.valid[image].nonzero()[:, 0].tolist():
            box = rois.boxes[image, slot]
            logits, deltas = head(features, box[None], torch.tensor([image]))
            total += 1
            label = int(rois.labels[image, slot])
            wanted_class -= logits.log_softmax(dim=1)[0, label]
            if rois.is_foreground[image, slot]:
                goal = encode(targets.boxes[image, rois.gt_index[image, slot]], box, head.box_weights)
                wanted_box += (deltas[0, label] - goal).abs().sum()
    torch.testing.assert_close(losses["box_reg"], wanted_box / total)
    torch.testing.assert_close(losses["box_cls"], wanted_class / total)


@pytest.mark.parametrize("settings", [{}, {"class_agnostic": True}, {"box_loss": "giou"}])
def test_box_losses_do_not_depend_on_padding(settings, monkeypatch):
    """On a GPU (simulated by `is_compiling`), padding is not removed; it must not contribute to the losses."""
    head = head_of(**settings)
    targets = instances([[[10, 10, 50, 60]], []], labels=[[2], []])
    features = feature_maps(SIDE)
    rois = head.sample(proposals_of([[[12, 8, 48, 66], [90, 90, 120, 120]], [[0, 0, 20, 20]]]), targets)
    assert not rois.valid.all()
    compact = head.loss(features, rois, targets)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    static = head.loss(features, rois, targets)
    for name, loss in compact.items():
        torch.testing.assert_close(static[name], loss)


def test_box_head_learns_background_only_from_images_without_objects():
    head = head_of()
    targets = instances([[], []])
    rois = head.sample(proposals_of([[[12, 8, 48, 66]], []]), targets)
    losses = head.loss(feature_maps(SIDE), rois, targets)
    assert losses["box_cls"] > 0 and losses["box_reg"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_without_regions_there_are_no_detections_and_the_loss_is_zero():
    head = head_of()
    targets = instances([[], []])
    nothing = proposals_of([[], []])
    losses = head.loss(feature_maps(SIDE), head.sample(nothing, targets), targets)
    assert sum(losses.values()) == 0
    assert [len(detections) for detections in head.eval().predict(feature_maps(SIDE), nothing)] == [0, 0]


def scripted() -> Scripted:
    return Scripted(pyramid(), CLASSES, trunk=ConvFC(16, 7, fc_channels=8)).eval()


def test_detections_score_above_the_threshold_and_are_clipped_to_the_image():
    head = scripted().script([[9.0, 0, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9], [0, 9, 0, 0]])
    proposals = proposals_of([[[0, 0, 40, 40], [50, 50, 90, 90], [5, 90, 20, 120]], [[60, 60, 128, 128]]])
    first, second = head.predict({}, proposals)
    assert first.boxes.tolist() == [[0, 0, 40, 40], [50, 50, 90, 90]]
    assert first.labels.tolist() == [0, 2]
    assert second.boxes.tolist() == [[60, 60, 90, 100]] and second.labels.tolist() == [1]
    score = torch.tensor([9.0, 0, 0, 0]).softmax(0)[0]
    torch.testing.assert_close(first.scores, score.expand(2))


def test_boxes_suppress_only_their_own_class():
    boxes = [[[0.0, 0, 40, 40], [0, 0, 41, 40], [0, 0, 42, 40]]]
    head = scripted().script([[9.0, 0, 0, 0], [8, 0, 0, 0], [0, 7, 0, 0]])
    (detections,) = head.predict({}, proposals_of(boxes))
    assert detections.boxes.tolist() == [boxes[0][0], boxes[0][2]]
    assert (detections.scores.diff() <= 0).all()


def test_detections_per_image_are_limited():
    head = scripted().script([[9.0 - i, 0, 0, 0] for i in range(6)])
    head.detections_per_image = 4
    boxes = [[[20.0 * i, 0, 20 * i + 15, 20] for i in range(6)]]
    (detections,) = head.predict({}, proposals_of(boxes))
    assert detections.boxes.tolist() == boxes[0][:4]


def test_feature_maps_of_a_trunk_are_average_pooled():
    """The C4 layout averages the output of ResNet's last stage in this way."""

    class Stage(nn.Conv2d):
        out_channels = 8

    head = BoxHead(pyramid(), CLASSES, trunk=Stage(16, 8, 1))
    assert head(feature_maps(SIDE), torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]))[0].shape == (1, CLASSES + 1)


def test_a_box_head_refuses_the_feature_maps_of_a_backbone_without_a_neck():
    backbone = {"c4": FeatureSpec(1024, 16), "c5": FeatureSpec(2048, 32)}
    with pytest.raises(ConfigError, match="Add a neck such as FPN"):
        BoxHead(backbone, CLASSES)
    BoxHead(backbone, CLASSES, levels=["c4"])


def test_regions_are_not_pooled_from_the_coarsest_level():
    """In the FPN paper, only the RPN uses p6 (Lin et al. 2017, section 4.1, footnote)."""
    assert head_of().pooler.names == ("p2", "p3", "p4", "p5")
