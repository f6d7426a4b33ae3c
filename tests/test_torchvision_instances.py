"""Torchvision's Mask R-CNNs and Keypoint R-CNN, loaded and compared in float64 on real images."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from backbone_referee import slow
from torch import Tensor, nn
from torchvision.models.detection import roi_heads as theirs
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align
from torchvision_referee import (
    FULLY_CONNECTED,
    NARROW,
    SLIM,
    WIDTH,
    as_batch,
    narrow,
    ours,
    photos,
    scattered,
    train_without_norms,
)  # fmt: skip

from chordate.data.coco_classes import COCO_CLASSES
from chordate.heads import mask as mask_head
from chordate.model_contracts import Model
from chordate.models import two_stage
from chordate.structures import DatasetMeta
from chordate.weights.formats.torchvision_detectors import TorchvisionRCNN
from chordate.weights.loading import load_checkpoint
from chordate.weights.state_dict_match import match

MAX_DETECTIONS = 50  # detections per image
CLASSES = 5  # number of classes of the keypoint detector; the published one has a single class
KEYPOINTS = 17

PAIRS = {
    "maskrcnn_resnet50_fpn": "mask-rcnn_r50_fpn_torchvision",
    "maskrcnn_resnet50_fpn_v2": "mask-rcnn_r50_fpn-v2_torchvision",
    "keypointrcnn_resnet50_fpn": "keypoint-rcnn_r50_fpn_torchvision",
}


def slimmer(model: nn.Module) -> None:
    """Apply `narrow` to a detector, and also replace its mask or keypoint head by a narrow one."""
    narrow(model)
    heads = model.roi_heads
    if heads.has_mask():
        norm = nn.BatchNorm2d if any(isinstance(part, nn.BatchNorm2d) for part in heads.mask_head.modules()) else None
        heads.mask_head = MaskRCNNHeads(WIDTH, [SLIM] * 4, 1, norm_layer=norm)
        heads.mask_predictor = MaskRCNNPredictor(SLIM, SLIM, 91)
    if heads.has_keypoint():
        heads.keypoint_head = KeypointRCNNHeads(WIDTH, [SLIM] * 8)
        heads.keypoint_predictor = KeypointRCNNPredictor(SLIM, KEYPOINTS)


def pair_of(name: str, cells: Path) -> tuple[nn.Module, nn.Module, list[Tensor], list[dict]]:
    """Torchvision's model; Chordate's with the same weights; a landscape and a portrait photo; their targets."""
    images, targets = photos(cells)
    settings = {"box_detections_per_img": MAX_DETECTIONS}
    trunk = {"type": "ConvFC", "fc_channels": FULLY_CONNECTED}
    parts = {**NARROW, "box": {"detections_per_image": MAX_DETECTIONS, "trunk": trunk}}
    if name.startswith("keypoint"):
        settings["num_classes"] = CLASSES + 1
        parts["keypoint"] = {"channels": SLIM}
        model = ours(PAIRS[name], CLASSES, KEYPOINTS, **parts)
        for target in targets:
            target["labels"] = target["labels"] % CLASSES + 1
    else:
        parts["mask"] = {"channels": SLIM}
        if name.endswith("v2"):
            trunk.update(convs=4, conv_channels=SLIM, fcs=1, norm="BN")
        model = ours(PAIRS[name], **parts)
    referee = scattered(name, images, change=slimmer, **settings)
    report = load_checkpoint(model.double(), referee.state_dict())
    assert report.format == "torchvision" and not report.missing and not report.skipped
    return referee, model.eval(), images, targets


@pytest.fixture(scope="module", params=[*slow("maskrcnn_resnet50_fpn"), "maskrcnn_resnet50_fpn_v2"], ids=["v1", "v2"])
def masks(request, cells):
    return pair_of(request.param, cells)


@pytest.fixture(scope="module")
def keypoints(cells):
    return pair_of("keypointrcnn_resnet50_fpn", cells)


def assert_same_detections(detections, wanted) -> None:
    assert len(wanted["scores"]) >= 50 and wanted["labels"].unique().numel() >= CLASSES
    assert torch.equal(detections.labels, wanted["labels"] - 1)
    torch.testing.assert_close(detections.scores, wanted["scores"], rtol=0, atol=1e-4)
    torch.testing.assert_close(detections.boxes, wanted["boxes"], rtol=0, atol=1e-2)


@torch.no_grad()
def test_mask_rcnn_masks_equal_torchvisions(masks, monkeypatch):
    referee, model, images, _ = masks
    small = {"theirs": [], "ours": []}
    infer, paste = theirs.maskrcnn_inference, two_stage.paste_masks
    monkeypatch.setattr(theirs, "maskrcnn_inference", lambda *a: small["theirs"].extend(infer(*a)) or small["theirs"])
    monkeypatch.setattr(two_stage, "paste_masks", lambda m, *a: small["ours"].append(m) or paste(m, *a))
    wanted = referee([image.double() / 255 for image in images])
    detections = model(as_batch(images))
    for image, a, b, one, other in zip(images, wanted, detections, small["theirs"], small["ours"], strict=True):
        assert_same_detections(b, a)
        assert one.std() > 0.1
        torch.testing.assert_close(other, one[:, 0], rtol=0, atol=1e-3)
        # The reference is not torchvision's own pasting, which rounds boxes to whole pixels.
        exact = at_pixels(one, a["boxes"], *image.shape[1:])
        sure = (exact - 0.5).abs() > 1e-3
        assert torch.equal(b.masks[sure], (exact >= 0.5)[sure])


def at_pixels(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks `[D, 1, M, M]`, relative to their boxes, sampled at the image's pixel centers: `[D, height, width]`."""
    x = (torch.arange(width) + 0.5 - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = (torch.arange(height) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    grid = torch.stack((x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), -1)
    return F.grid_sample(masks, grid, align_corners=False)[:, 0]


@torch.no_grad()
def test_mask_losses_equal_torchvisions_on_the_same_targets(masks, monkeypatch):
    """Torchvision's targets are soft and cropped from full-size bitmaps; ours are binary, from bitmaps of the boxes.
    Here, both heads get the same binary targets."""
    referee, model, images, targets = masks
    noise = F.interpolate(torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0)), 640)[0, 0].double()

    def target_of(boxes: Tensor, size: int) -> Tensor:
        rois = torch.cat((torch.zeros(len(boxes), 1, dtype=boxes.dtype), boxes), 1)
        return (roi_align(noise[None, None], rois, size, aligned=True)[:, 0] >= 0.5).to(boxes.dtype)

    monkeypatch.setattr(theirs, "project_masks_on_boxes", lambda masks, boxes, index, size: target_of(boxes, size))
    monkeypatch.setattr(mask_head, "mask_targets", lambda m, f, i, j, boxes, size: target_of(boxes, size))
    batch = as_batch(images, targets)
    batch.targets.masks = torch.zeros(*batch.targets.labels.shape, 112, 112, dtype=torch.uint8)
    bitmaps = [torch.zeros(len(t["labels"]), *image.shape[1:]) for t, image in zip(targets, images)]
    full_targets = [{**target, "masks": bitmap} for target, bitmap in zip(targets, bitmaps)]
    compare_losses(referee, model, images, full_targets, batch, mask="loss_mask")


@torch.no_grad()
def test_keypoint_rcnn_keypoints_equal_torchvisions(keypoints):
    referee, model, images, _ = keypoints
    wanted = referee([image.double() / 255 for image in images])
    detections = model(as_batch(images))
    for a, b in zip(wanted, detections, strict=True):
        assert_same_detections(b, a)
        assert a["keypoints_scores"].std() > 0.1
        assert b.keypoints.shape == (len(b), KEYPOINTS, 3)
        torch.testing.assert_close(b.keypoints[..., :2], a["keypoints"][..., :2].double(), rtol=0, atol=0.5)
        torch.testing.assert_close(b.keypoints[..., 2], a["keypoints_scores"].double(), rtol=0, atol=1e-4)


@torch.no_grad()
def test_keypoint_losses_equal_torchvisions(keypoints):
    referee, model, images, targets = keypoints
    batch = as_batch(images, targets)
    batch.targets.keypoints = torch.zeros(*batch.targets.labels.shape, KEYPOINTS, 3)
    generator = torch.Generator().manual_seed(0)
    full_targets = []
    for number, target in enumerate(targets):
        corner, far = target["boxes"].float()[:, None].split(2, -1)
        place = corner + torch.rand(len(corner), KEYPOINTS, 2, generator=generator) * (far - corner)
        visibility = torch.randint(0, 3, (len(corner), KEYPOINTS, 1), generator=generator)
        full_targets.append({**target, "keypoints": torch.cat((place, visibility), -1)})
        batch.targets.keypoints[number, : len(corner)] = full_targets[-1]["keypoints"]
    compare_losses(referee, model, images, full_targets, batch, keypoint="loss_keypoint")


def compare_losses(referee, model, images, full_targets, batch, **names) -> None:
    wanted = train_without_norms(referee)([image.double() / 255 for image in images], full_targets)
    losses = train_without_norms(model)(batch)
    for mine, other in {"box_cls": "loss_classifier", "box_reg": "loss_box_reg", **names}.items():
        assert wanted[other] > 1e-3
        torch.testing.assert_close(losses[mine], wanted[other], rtol=0, atol=1e-4, check_dtype=False)
    referee.eval()
    model.eval()


@pytest.mark.parametrize("name", PAIRS)
def test_full_size_checkpoints_match_the_models(name):
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None, weights_backbone=None).state_dict()
        sizes = (1, KEYPOINTS) if name.startswith("keypoint") else (90,)
        model = ours(PAIRS[name], *sizes)
    assert match(model, TorchvisionRCNN().convert(state, model)).is_complete


def test_a_mask_rcnn_for_cocos_80_classes_loads_the_rows_of_these_classes():
    names = ("roi_heads.box_predictor.cls_score", "roi_heads.mask_predictor.mask_fcn_logits")
    state = {f"{name}.{suffix}": torch.arange(91.0) for name in names for suffix in ("weight", "bias")}
    state |= {f"roi_heads.box_predictor.bbox_pred.{suffix}": torch.arange(4 * 91.0) for suffix in ("weight", "bias")}

    eighty = Model()
    eighty.meta = DatasetMeta(COCO_CLASSES)
    converted = TorchvisionRCNN().convert({**state, "backbone.body.layer1.0.conv1.weight": torch.zeros(1)}, eighty)
    assert torch.equal(converted["mask.masks.bias"], converted["box.cls_score.bias"][:80])
