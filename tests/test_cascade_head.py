"""Cascade R-CNN's head by the formulas of Cai & Vasconcelos: training regions of each stage, averaged scores."""

import pytest
import torch
from detection_toys import feature_maps, instances, pyramid
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from chordate.errors import ConfigError
from chordate.heads import CascadeHead, cascade
from chordate.registry import HEADS
from chordate.structures import InstanceTargets, Proposals

SIDE = 128
CLASSES = 3
IOUS = (0.5, 0.6, 0.7)
SIZES = torch.tensor([[SIDE, SIDE], [100, 90]])


def head_of(**stage) -> CascadeHead:
    """A cascade head whose stages move boxes by a few pixels."""
    torch.manual_seed(0)
    settings = {"trunk": {"type": "ConvFC", "fc_channels": 32}, "batch_size_per_image": 32, **stage}
    head = CascadeHead(pyramid(), CLASSES, stage=settings)
    for stage in head.stages:
        torch.nn.init.normal_(stage.bbox_pred.weight, std=0.5)
        torch.nn.init.normal_(stage.cls_score.weight, std=0.5)
    return head


def scene() -> tuple[Proposals, InstanceTargets]:
    """Two images with objects (one is a crowd), and proposals around the objects."""
    boxes = [[[10.0, 10, 50, 60], [60, 20, 120, 90], [0, 90, 60, 128]], [[30.0, 20, 80, 90]]]
    targets = instances(boxes, labels=[[2, 0, 1], [1]], crowd=[[False, False, True], [False]])
    generator = torch.Generator().manual_seed(0)
    jitter = torch.randn(2, 40, 4, generator=generator) * 5
    around = targets.boxes[:, torch.arange(40) % 3] + jitter
    around[1] = targets.boxes[1, :1] + jitter[1]
    around = torch.stack([clip_boxes_to_image(b, tuple(size.tolist())) for b, size in zip(around, SIZES)])
    valid = ((around[..., 2:] - around[..., :2]) > 1).all(-1)
    return Proposals(around, torch.zeros(2, 40), valid, SIZES), targets


def moved(boxes: Tensor, deltas: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Decodes boxes by R-CNN's formula (Girshick et al. 2014, appendix C), one coordinate at a time."""
    dx, dy, dw, dh = (deltas[:, i] / weights[i] for i in range(4))
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2 + dx * w, (boxes[:, 1] + boxes[:, 3]) / 2 + dy * h
    w, h = w * dw.exp(), h * dh.exp()
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1)


def test_each_stage_trains_on_the_previous_stages_boxes_with_its_own_iou_threshold(monkeypatch):
    head = head_of()
    proposals, targets = scene()
    rois = head.sample(proposals, targets)
    seen = []
    for stage in head.stages:
        plain = stage.losses
        monkeypatch.setattr(stage, "losses", lambda *args, plain=plain: seen.append(args) or plain(*args))
    losses = head.loss(feature_maps(SIDE), rois, targets)
    assert set(losses) == {f"{name}_{number}" for name in ("box_cls", "box_reg") for number in range(3)}

    counts = rois.valid.sum(1).tolist()
    before = rois.boxes[rois.valid]
    image = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    changed = False
    for number, (_, deltas, boxes, index, matched, _) in enumerate(seen):
        labels, gt_index, positive = map(index.flatten, (matched.labels, matched.gt_index, matched.is_foreground))
        truth = targets.boxes[index.image, gt_index]
        if number:  # later stages drop empty boxes, and boxes mostly in a crowd that match no object
            wanted = torch.stack([clip_boxes_to_image(b, tuple(SIZES[i].tolist())) for b, i in zip(before, image)])
            iou_crowd = crowd_share(wanted, targets.boxes[0, 2]) * (image == 0)
            overlap = best_overlap(wanted, image, targets)[0]
            stays = ((iou_crowd < 0.7) | (overlap >= IOUS[number])) & ((wanted[:, 2:] - wanted[:, :2]) > 1e-3).all(1)
            before, image = wanted[stays], image[stays]
        torch.testing.assert_close(boxes, before)
        overlap, best = best_overlap(boxes, image, targets)
        is_object = overlap >= IOUS[number]
        assert torch.equal(positive, is_object)
        assert torch.equal(labels, torch.where(is_object, targets.labels[image, best], CLASSES))
        torch.testing.assert_close(truth[is_object], targets.boxes[image, best][is_object])
        changed |= number > 0 and bool(((overlap >= IOUS[number - 1]) != is_object).any())
        scale = 10.0 * (number + 1)
        before = moved(boxes, deltas[:, 0].detach(), (scale, scale, scale / 2, scale / 2))
    assert changed, "the boxes match equally at all thresholds"


def best_overlap(boxes: Tensor, image: Tensor, targets: InstanceTargets) -> tuple[Tensor, Tensor]:
    """The highest IoU of each box with a non-crowd object of its image, and the object's index."""
    single = targets.valid & ~targets.crowd
    iou = torch.stack([box_iou(box[None], targets.boxes[i])[0].nan_to_num() for box, i in zip(boxes, image)])
    return torch.where(single[image], iou, -1.0).max(1)


def crowd_share(boxes: Tensor, crowd: Tensor) -> Tensor:
    """The fraction of each box's area that lies in the crowd."""
    size = (torch.minimum(boxes[:, 2:], crowd[2:]) - torch.maximum(boxes[:, :2], crowd[:2])).clamp(min=0)
    return size.prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-9)


def test_scores_are_the_mean_over_the_stages_and_boxes_are_the_last_stages():
    head = head_of(score_threshold=0.0, nms_threshold=1.0, detections_per_image=10_000).eval()
    maps = feature_maps(SIDE)
    boxes = torch.tensor([[[10.0, 10, 60, 70], [40, 50, 100, 110]], [[5, 5, 80, 60], [0, 0, 0, 0]]])
    valid = torch.tensor([[True, True], [True, False]])
    detections = head.predict(maps, Proposals(boxes, torch.zeros(2, 2), valid, SIZES))

    at, image = boxes[valid], torch.tensor([0, 0, 1])
    scores = []
    for number, stage in enumerate(head.stages):
        logits, deltas = stage(maps, at, image)
        scores.append(logits.softmax(1)[:, :CLASSES])
        scale = 10.0 * (number + 1)
        at = moved(at, deltas[:, 0], (scale, scale, scale / 2, scale / 2))
        at = torch.stack([clip_boxes_to_image(b, tuple(SIZES[i].tolist())) for b, i in zip(at, image)])
    mean = sum(scores) / 3
    for i, result in enumerate(detections):
        rows = (image == i).nonzero()[:, 0]
        assert len(result) == len(rows) * CLASSES  # each box becomes one detection per class
        wanted, order = mean[rows].flatten().sort(descending=True)
        torch.testing.assert_close(result.scores, wanted)
        assert torch.equal(result.labels, order % CLASSES)
        torch.testing.assert_close(result.boxes, at[rows[order // CLASSES]])


def test_stage_losses_are_summed_and_feature_gradients_are_divided_by_three(monkeypatch):
    """As in Detectron2: the stages' losses are summed; the features' gradient is divided by the number of stages."""
    head = head_of()
    proposals, targets = scene()
    rois = head.sample(proposals, targets)

    def gradients() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(1)
        maps = {name: x.requires_grad_() for name, x in feature_maps(SIDE).items()}
        head.zero_grad()
        sum(head.loss(maps, rois, targets).values()).backward()
        return maps["p2"].grad, [stage.cls_score.weight.grad.clone() for stage in head.stages]

    third, weights = gradients()
    monkeypatch.setattr(cascade, "scale_gradient", lambda x, _: x)
    whole, same = gradients()
    assert whole.abs().sum() > 0
    torch.testing.assert_close(third, whole / 3)
    torch.testing.assert_close(same, weights)


def test_cascade_losses_do_not_depend_on_padding(monkeypatch):
    head = head_of()
    proposals, targets = scene()
    maps, rois = feature_maps(SIDE), head.sample(proposals, targets)
    compact = head.loss(maps, rois, targets)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    static = head.loss(maps, rois, targets)
    for name, loss in compact.items():
        torch.testing.assert_close(static[name], loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iou_thresholds": (0.5, 0.6)}, "iou_thresholds has 2 entries, box_weights 3; pass one entry of each"),
        ({"iou_thresholds": (), "box_weights": ()}, r"iou_thresholds must be a list of .* at least 1 item, got \(\)"),
        ({"stage": {"iou_threshold": 0.5}}, "`stage` must not contain iou_threshold; set CascadeHead's iou_thresholds"),
        ({"stage": {"resolutoin": 7}}, 'unknown setting of head BoxHead "resolutoin"; did you mean "resolution"'),
    ],
)
def test_a_wrong_setting_of_the_cascade_head_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        HEADS.build({"type": "CascadeHead", **settings}, in_features=pyramid(), num_classes=CLASSES)
