"""Torchvision's RetinaNets, loaded and compared in float64 on real images: detections and losses."""

import pytest
import torch
import torchvision
from backbone_referee import slow, without_init
from torchvision_referee import as_batch, ours, photos, scatter, train_without_norms

from chordate.data.coco_classes import COCO_CLASSES
from chordate.model_contracts import Model
from chordate.structures import DatasetMeta
from chordate.weights.formats.torchvision_detectors import TorchvisionRetinaNet
from chordate.weights.loading import load_checkpoint

SIDE = 96  # the batch is padded to 128×128, from which torchvision infers the correct strides (up to 128)
PAIRS = {
    "retinanet_resnet50_fpn": "retinanet_r50_fpn_torchvision",
    "retinanet_resnet50_fpn_v2": "retinanet_r50_fpn-v2_torchvision",
}


@pytest.fixture(scope="module", params=[*slow("retinanet_resnet50_fpn"), "retinanet_resnet50_fpn_v2"], ids=["v1", "v2"])
def pair(request, cells):
    """Torchvision's model; Chordate's with the same weights, both in float64; two photos; their targets."""
    images, targets = photos(cells, SIDE)
    torch.manual_seed(5)
    referee = torchvision.models.get_model(
        request.param,
        weights=None,
        weights_backbone=None,
        min_size=SIDE,
        max_size=10_000,
    ).double()
    head = referee.head
    # As in a trained network, only a few of the many anchors have high scores.
    scores = {head.classification_head.cls_logits: (1.5, -4.0), head.regression_head.bbox_reg: (0.3,)}
    scatter(referee, images, [scores])
    with without_init():
        model = ours(PAIRS[request.param], 91).double()
    report = load_checkpoint(model, referee.state_dict())
    assert report.format == "torchvision" and not report.missing and not report.skipped
    return referee, model.eval(), images, targets


@torch.no_grad()
def test_retinanet_detections_equal_torchvisions(pair):
    referee, model, images, _ = pair
    wanted = referee([image.double() / 255 for image in images])
    for theirs, mine in zip(wanted, model(as_batch(images)), strict=True):
        assert len(theirs["scores"]) >= 50 and theirs["labels"].unique().numel() >= 5
        assert torch.equal(mine.labels, theirs["labels"])
        torch.testing.assert_close(mine.scores, theirs["scores"], rtol=0, atol=1e-4)
        torch.testing.assert_close(mine.boxes, theirs["boxes"], rtol=0, atol=1e-2)


@torch.no_grad()
def test_retinanet_losses_equal_torchvisions(pair):
    """Uses one image at a time, since torchvision normalizes by the positive anchors per image, our head per batch."""
    referee, model, images, targets = pair
    train_without_norms(referee)
    train_without_norms(model)
    for image, target in zip(images, targets):
        wanted = referee([image.double() / 255], [dict(target)])
        batch = as_batch([image], [target])
        batch.targets.labels[batch.targets.valid] += 1  # torchvision's labels are COCO's category ids, which start at 1
        losses = model(batch)
        for mine, theirs in {"cls": "classification", "box": "bbox_regression"}.items():
            assert wanted[theirs] > 1e-3
            torch.testing.assert_close(losses[mine], wanted[theirs], rtol=1e-6, atol=1e-4, check_dtype=False)
    referee.eval()
    model.eval()


def test_a_retinanet_for_cocos_80_classes_loads_the_rows_of_these_classes(pair):
    eighty = Model()
    eighty.meta = DatasetMeta(COCO_CLASSES)
    theirs = torch.arange(91.0).repeat(9)
    state = {**pair[0].state_dict(), "head.classification_head.cls_logits.bias": theirs}
    biases = TorchvisionRetinaNet().convert(state, eighty)["head.cls_score.bias"].view(9, 80)
    gaps = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert biases[0].tolist() == [number for number in range(91) if number not in gaps]
    assert (biases == biases[0]).all()
