"""Torchvision's Faster R-CNNs, loaded and compared in float64 on real images: detections and losses."""

import re

import pytest
import torch
from backbone_referee import slow
from torch import nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision_referee import as_batch, ours, photos, scattered, train_without_norms

from chordate.data.coco_classes import COCO_CLASSES
from chordate.model_contracts import Model
from chordate.structures import DatasetMeta
from chordate.weights.formats.torchvision_detectors import TorchvisionRCNN
from chordate.weights.loading import load_checkpoint


@pytest.fixture(
    scope="module",
    params=[
        ("fasterrcnn_resnet50_fpn", "faster-rcnn_r50_fpn_torchvision"),
        # Marked slow, since test_torchvision_instances.py always compares a Mask R-CNN that has all of these parts.
        *slow(("fasterrcnn_resnet50_fpn_v2", "faster-rcnn_r50_fpn-v2_torchvision")),
    ],
    ids=["v1", "v2"],
)
def pair(request, cells):
    """Torchvision's model; Chordate's with the same weights, both in float64; two photos; their targets."""
    name, config = request.param
    images, targets = photos(cells)
    referee = scattered(name, images)
    model = ours(config).double()
    report = load_checkpoint(model, referee.state_dict())
    assert report.format == "torchvision"
    assert not report.missing and not report.skipped
    return referee, model.eval(), images, targets


@torch.no_grad()
def test_faster_rcnn_detections_equal_torchvisions(pair):
    referee, model, images, _ = pair
    wanted = referee([image.double() / 255 for image in images])
    detections = model(as_batch(images))
    for theirs, mine in zip(wanted, detections, strict=True):
        assert len(theirs["scores"]) >= 50 and theirs["labels"].unique().numel() >= 5
        assert len(mine) == len(theirs["scores"])
        assert torch.equal(mine.labels, theirs["labels"] - 1)
        torch.testing.assert_close(mine.scores, theirs["scores"], rtol=0, atol=1e-4)
        torch.testing.assert_close(mine.boxes, theirs["boxes"], rtol=0, atol=1e-2)


@torch.no_grad()
def test_faster_rcnn_losses_equal_torchvisions_on_the_same_samples(pair):
    referee, model, images, targets = pair
    wanted = train_without_norms(referee)(
        [image.double() / 255 for image in images], [dict(target) for target in targets]
    )
    losses = train_without_norms(model)(as_batch(images, targets))
    names = {
        "rpn_cls": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "box_cls": "loss_classifier",
        "box_reg": "loss_box_reg",
    }
    for mine, theirs in names.items():
        assert wanted[theirs] > 1e-3
        torch.testing.assert_close(losses[mine], wanted[theirs], rtol=0, atol=1e-4, check_dtype=False)
    referee.eval()
    model.eval()


def test_checkpoints_from_before_torchvision_0_13_are_converted_equally(pair):
    """The first published COCO weights have the old parameter names, which lack some `.0` parts."""
    referee, model, *_ = pair
    old = {}
    for name, tensor in referee.state_dict().items():
        if isinstance(model.neck.lateral["c2"][-1], nn.Conv2d):  # only FPNs without norms existed then
            name = re.sub(r"(inner_blocks\.\d|layer_blocks\.\d|head\.conv)\.0(\.0)?\.", r"\1.", name)
        old[name] = tensor
    new_state, old_state = (TorchvisionRCNN().convert(state, model) for state in (referee.state_dict(), old))
    assert set(new_state) == set(old_state)
    assert all(torch.equal(tensor, old_state[name]) for name, tensor in new_state.items())


def test_a_faster_rcnn_for_cocos_80_classes_loads_the_rows_of_these_classes(pair):
    """Torchvision's Faster R-CNN has 91 classes: the background and the category ids 1 to 90, of which COCO uses 80."""
    referee = pair[0]
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    ids = [number for number, name in enumerate(names) if name not in ("__background__", "N/A")]
    assert tuple(names[number] for number in ids) == COCO_CLASSES and len(ids) == 80

    eighty = Model()
    eighty.meta = DatasetMeta(COCO_CLASSES)
    state = TorchvisionRCNN().convert(referee.state_dict(), eighty)
    theirs = referee.roi_heads.box_predictor
    assert torch.equal(state["box.cls_score.bias"], theirs.cls_score.bias[[*ids, 0]])
    assert torch.equal(state["box.bbox_pred.bias"].view(80, 4), theirs.bbox_pred.bias.view(91, 4)[ids])
