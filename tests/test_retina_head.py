"""RetinaNet's head: losses against torchvision's and the paper's formula; predictions."""

import pytest
import torch
from detection_toys import feature_maps, instances, pyramid
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import batched_nms, box_iou, sigmoid_focal_loss

from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.heads import RetinaHead
from chordate.ops.boxes import decode, encode
from chordate.registry import HEADS

SIDE = 128
CLASSES = 4
SIZES = torch.tensor([[SIDE, SIDE], [100, 90]])


def head_of(**settings) -> RetinaHead:
    torch.manual_seed(0)
    head = RetinaHead(pyramid(), CLASSES, **{"convs": 1, **settings})
    for predictor in (head.cls_score, head.bbox_pred):
        torch.nn.init.normal_(predictor.weight, std=0.2)
    return head


def scene():
    boxes = [[[10, 10, 50, 60], [60, 20, 120, 90]], [[30, 20, 80, 90], [0, 0, 128, 128]]]
    return instances(boxes, labels=[[2, 0], [1, 3]], crowd=[[False, False], [False, True]])


def matched(anchors, targets, image):
    """Match by IoU thresholds 0.4 and 0.5, with low-quality matches; background anchors in a crowd are ignored.

    Returns the object index, -1 (background) or -2 (ignored) for each anchor.
    """
    single = (targets.valid & ~targets.crowd)[image]
    iou = box_iou(targets.boxes[image][single], anchors)
    best, index = iou.max(0)
    match = torch.where(best >= 0.5, index, torch.where(best < 0.4, -1, -2))
    low = (iou == iou.max(1, keepdim=True).values).any(0)
    match[low] = index[low]
    crowd = targets.boxes[image][targets.crowd[image]]
    for box in crowd:
        shared = (torch.minimum(anchors[:, 2:], box[2:]) - torch.maximum(anchors[:, :2], box[:2])).clamp(min=0).prod(1)
        covered = shared >= 0.7 * (anchors[:, 2:] - anchors[:, :2]).prod(1)
        match[covered & (match == -1)] = -2
    return match


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_losses_are_the_papers_over_the_positive_anchors(beta):
    """The focal loss (equation 5) is summed over all anchors that are not ignored, the box loss over the positives;
    both are divided by the number of positives."""
    head, targets = head_of(smooth_l1_beta=beta), scene()
    outputs = head(feature_maps(SIDE))
    losses = head.loss(outputs, SIZES, targets)
    focal = boxes = positives = 0.0
    for image in range(2):
        match = matched(outputs.anchors, targets, image)
        assert (match == -2).any() and (match >= 0).any()
        p = outputs.logits[image].sigmoid()
        truth = torch.zeros_like(p)
        objects = match >= 0
        truth[objects, targets.labels[image, match[objects]]] = 1
        pt, alpha = torch.where(truth > 0, p, 1 - p), torch.where(truth > 0, 0.25, 0.75)
        focal += (-alpha * (1 - pt) ** 2 * pt.log())[match != -2].sum()
        wanted = encode(targets.boxes[image, match[objects]], outputs.anchors[objects], (1.0, 1.0, 1.0, 1.0))
        gap = (outputs.deltas[image][objects] - wanted).abs()
        boxes += torch.where(gap < beta, gap**2 / (2 * beta or 1), gap - beta / 2).sum()
        positives += int(objects.sum())
    torch.testing.assert_close(losses["cls"], focal / positives)
    torch.testing.assert_close(losses["box"], boxes / positives)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_retina_losses_are_torchvisions_on_the_same_matches(kind):
    """Uses one image, since torchvision normalizes the loss by the positive anchors per image, our head per batch."""
    head = head_of(box_loss=kind)
    targets = instances([[[10, 10, 50, 60], [60, 20, 120, 90]]], labels=[[2, 0]])
    outputs = head(feature_maps(SIDE, images=1))
    match = [matched(outputs.anchors, targets, 0)]
    truth = [{"boxes": targets.boxes[0, :2], "labels": targets.labels[0, :2]}]
    theirs = RetinaNetClassificationHead(16, 9, CLASSES)
    classes = theirs.compute_loss(truth, {"cls_logits": outputs.logits}, match)
    regression = RetinaNetRegressionHead(16, 9)
    regression._loss_type = "l1" if kind == "smooth_l1" else "giou"
    boxes = regression.compute_loss(truth, {"bbox_regression": outputs.deltas}, [outputs.anchors], match)
    losses = head.loss(outputs, SIZES[:1], targets)
    torch.testing.assert_close(losses["cls"], classes)
    torch.testing.assert_close(losses["box"], boxes)


def test_without_objects_every_anchor_is_background_and_the_box_loss_is_zero():
    head = head_of()
    outputs = head(feature_maps(SIDE))
    losses = head.loss(outputs, SIZES, instances([[], []]))
    wanted = sigmoid_focal_loss(outputs.logits, torch.zeros_like(outputs.logits), 0.25, 2.0, reduction="sum")
    torch.testing.assert_close(losses["cls"], wanted)
    assert losses["box"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_initial_score_of_every_anchor_is_a_hundredth():
    """Section 4.1: the initial bias keeps the many negatives from dominating the first steps."""
    torch.manual_seed(0)
    scores = RetinaHead(pyramid(), CLASSES)(feature_maps(SIDE)).logits.sigmoid()
    torch.testing.assert_close(scores.mean(), torch.tensor(0.01), atol=1e-3, rtol=0)


def test_each_cell_has_nine_anchors_with_three_sizes_per_octave():
    """Section 4: sizes (√area) of 32 to 512 px on p3 to p7, times 1, 2^(1/3) and 2^(2/3), in three aspect ratios."""
    levels = {f"p{i}": FeatureSpec(16, 2**i) for i in range(3, 8)}
    base = RetinaHead(levels, CLASSES).anchors.base
    size = base[..., 2:] - base[..., :2]
    assert base.shape == (5, 9, 4)
    sides = torch.tensor([[2 ** (5 + level + third / 3) for third in range(3)] for level in range(5)])
    torch.testing.assert_close(size.prod(-1).sqrt(), sides.repeat_interleave(3, 1))
    torch.testing.assert_close(size[..., 1] / size[..., 0], torch.tensor([0.5, 1, 2]).repeat(5, 3))


def test_each_level_contributes_its_topk_scores():
    head = head_of(topk=5, score_threshold=0.0, nms_threshold=1.0, detections_per_image=10_000).eval()
    outputs = head(feature_maps(SIDE))
    detections = head.predict(outputs, SIZES)
    for image, result in enumerate(detections):
        levels = outputs.logits[image].sigmoid().split(outputs.counts)
        best = torch.cat([level.flatten().topk(5).values for level in levels]).sort(descending=True).values
        torch.testing.assert_close(result.scores, best)
        assert (result.boxes >= 0).all() and (result.boxes <= SIZES[image].flip(0).repeat(2)).all()


def test_boxes_can_be_clipped_after_nms_as_in_detectron2():
    """NMS sees unclipped boxes; afterwards, boxes entirely outside the image are dropped."""
    settings = {"topk": 200, "score_threshold": 0.0, "detections_per_image": 50}
    head = head_of(clip_before_nms=False, **settings).eval()
    outputs = head(feature_maps(SIDE))
    (found, _), (clipped, _) = head.predict(outputs, SIZES), head_of(**settings).eval().predict(outputs, SIZES)
    levels, rows = outputs.logits[0].sigmoid().split(outputs.counts), []
    for level, start in zip(levels, torch.tensor([0, *outputs.counts]).cumsum(0).tolist()):
        scores, index = level.flatten().topk(min(200, level.numel()))
        rows.append((scores, start + index // CLASSES, index % CLASSES))
    scores, anchor, labels = (torch.cat(column) for column in zip(*rows))
    boxes = decode(outputs.deltas[0, anchor], outputs.anchors[anchor], (1.0, 1.0, 1.0, 1.0))
    keep = batched_nms(boxes, scores, labels, 0.5)[:50]
    inside = boxes[keep].clamp(0, SIDE)
    inside = inside[(inside[:, 2:] > inside[:, :2]).all(1)]
    torch.testing.assert_close(found.boxes, inside)
    assert len(found.boxes) != len(clipped.boxes) or not torch.equal(found.boxes, clipped.boxes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ["p2", "p9"]}, r'RetinaHead needs feature maps "p2", "p9", .*no "p9"'),
        ({"topk": 0}, "RetinaHead: topk must be ≥ 1, got 0"),
        (
            {"iou_thresholds": (0.5, 0.4)},
            r"RetinaHead: iou_thresholds must be .* 2 non-decreasing numbers, got \(0.5, 0.4\)",
        ),
        ({"box_loss": "iou"}, 'RetinaHead: box_loss must be one of "smooth_l1", "giou" .*got "iou"'),
    ],
)
def test_an_invalid_setting_of_the_retina_head_is_a_config_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        HEADS.build({"type": "RetinaHead", **settings}, in_features=pyramid(), num_classes=CLASSES)


def test_levels_with_different_channels_are_refused():
    with pytest.raises(ConfigError, match="RetinaHead needs levels with equal channels .*; got c3"):
        RetinaHead({"c3": FeatureSpec(512, 8), "c4": FeatureSpec(1024, 16)}, CLASSES)


def test_anchor_sizes_can_be_set_in_place_of_the_papers():
    """With `sizes`, each level has one anchor size instead of three."""
    head = head_of(anchors={"sizes": [40, 80, 160, 320, 640], "ratios": [1.0]})
    levels = head.anchors([(1, 1)] * 5, (64, 64))
    assert [(level[:, 2] - level[:, 0]).tolist() for level in levels] == [[40], [80], [160], [320], [640]]
    with pytest.raises(ConfigError, match="remove one of them"):
        head_of(anchors={"sizes": [40, 80, 160, 320, 640], "sizes_per_stride": [4.0]})
