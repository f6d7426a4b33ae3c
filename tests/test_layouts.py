"""The C4 layout (c5 as trunk shared by the box and mask heads) and the DC5 layout (dilated c5, no neck)."""

import copy

import pytest
import torch
import torchvision
from backbone_referee import slow
from test_two_stage import META, Tiny, batch_of
from torch import nn
from torchvision.ops import roi_align

import chordate
from chordate.errors import ConfigError
from chordate.ops.padded_index import PaddedIndex
from chordate.registry import BACKBONES, MODELS
from chordate.structures import Detections

RPN = {"type": "RPNHead", "anchors": {"sizes": [[16, 32, 64]]}, "post_nms_topk": (60, 30)}


def c4(**changes) -> nn.Module:
    """Mask R-CNN in the C4 layout on a thin ResNet-18: c4 has 64 channels, c5 has 128."""
    torch.manual_seed(0)
    parts = {
        "type": "TwoStageDetector",
        "backbone": {"type": "resnet18", "base_channels": 16, "out": ["c4", "c5"], "norm": "FrozenBN"},
        "trunk": "c5",
        "rpn": RPN,
        "box": {"type": "BoxHead", "resolution": 14, "batch_size_per_image": 32, "positive_fraction": 0.5},
        "mask": {"type": "MaskHead", "convs": 0, "channels": 16},
    }
    return MODELS.build({**parts, **changes}, meta=META)


def batch(*counts: int, **settings):
    made = batch_of(*counts, **settings)
    made.targets.masks = torch.ones(len(counts), made.targets.boxes.shape[1], 112, 112, dtype=torch.uint8)
    return made


def test_a_backbone_and_its_popped_c5_together_compute_the_same_feature_maps():
    whole = BACKBONES.build({"type": "resnet18"})
    divided = copy.deepcopy(whole)
    part = divided.pop_stage("c5")
    assert list(divided.out_features) == ["c2", "c3", "c4"] and list(part.out_features) == ["c5"]
    assert divided.state_dict().keys() | part.state_dict().keys() == whole.state_dict().keys()
    assert not divided.state_dict().keys() & part.state_dict().keys()
    images = torch.randn(2, 3, 64, 96)
    wanted, maps = whole.eval()(images), divided.eval()(images)
    assert torch.equal(maps["c4"], wanted["c4"])
    assert torch.equal(part.eval()(maps["c4"])["c5"], wanted["c5"])


@pytest.mark.parametrize("name", ["seresnet50", "convnext_tiny", "densenet121", *slow("resnext50_32x4d")])
def test_c5_can_be_popped_from_every_backbone(name):
    with torch.device("meta"):
        whole = BACKBONES.build({"type": name, "out": ["c4", "c5"]})
        images = torch.empty(1, 3, 64, 64)
        shape = whole(images)["c5"].shape
        part = whole.pop_stage("c5")
        assert part(whole(images)["c4"])["c5"].shape == shape


def test_rois_are_pooled_from_c4_to_14x14_and_halved_by_c5():
    """He et al. 2016, appendix A, and Detectron2's Res5ROIHeads: 14×14 RoIAlign on c4, then c5 and linear layers."""
    model = c4().eval().double()
    maps = {"c4": torch.randn(2, 64, 6, 6, dtype=torch.float64)}
    boxes, image = torch.tensor([[3.0, 8, 60, 70], [40, 10, 90, 90], [0, 0, 20, 12]]).double(), torch.tensor([1, 0, 1])
    pooled = roi_align(maps["c4"], torch.cat((image[:, None], boxes), 1), 14, 1 / 16, 0, aligned=True)
    regions = model.box.trunk.stage.layer4(pooled)
    assert regions.shape == (3, 128, 7, 7)
    torch.testing.assert_close(model.box.roi_features(maps, boxes, image), regions)
    logits, deltas = model.box(maps, boxes, image)
    torch.testing.assert_close(logits, model.box.cls_score(regions.mean((2, 3))))
    torch.testing.assert_close(deltas.flatten(1), model.box.bbox_pred(regions.mean((2, 3))))
    labels = torch.tensor([2, 0, 1])
    masks = model.mask.logits(model.box.roi_features(maps, boxes, image), labels)
    torch.testing.assert_close(masks, model.mask.masks(model.mask.upsample(regions).relu())[range(3), labels])
    assert masks.shape == (3, 14, 14)


@pytest.mark.parametrize("static", [False, True], ids=["compact", "static"])
def test_training_computes_roi_features_once_for_boxes_and_masks(monkeypatch, static):
    if static:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    model, made = c4(), batch(3, 1)
    calls = []
    model.box.trunk.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(1)
    shared = model.loss(made)["mask"]
    assert len(calls) == 1

    torch.manual_seed(1)
    features = model.features(made.images, made.sizes)
    rois = model.box.sample(model.rpn.predict(model.rpn(features), made.sizes, training=True), made.targets)
    positive = PaddedIndex(rois.is_foreground, rois.max_positives)
    own = model.box.roi_features(features, positive.flatten(rois.boxes), positive.image)
    monkeypatch.setattr(PaddedIndex, "select", lambda *_: own)
    own = model.mask.loss(features, rois, made.targets, own)["mask"]
    assert len(calls) == 2 and shared > 0.1
    torch.testing.assert_close(shared, own)


def test_every_parameter_of_a_c4_detector_gets_a_gradient_and_a_copy_does_not_share_the_trunk():
    model = c4()
    twin = copy.deepcopy(model)
    losses = model(batch(3, 1))
    assert set(losses) == {"rpn_cls", "rpn_box", "box_cls", "box_reg", "mask"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    sum(twin(batch(3, 1)).values()).backward()
    assert twin.box.trunk is not model.box.trunk
    assert all(parameter.grad is not None for parameter in twin.parameters() if parameter.requires_grad)
    assert not any(name.startswith("mask.") and "layer4" in name for name in model.state_dict())


def test_masks_are_predicted_for_the_detected_boxes():
    model = c4().eval()
    maps = {"c4": torch.randn(1, 64, 6, 6)}
    detections = [Detections(torch.tensor([[3.0, 8, 60, 70]]), torch.ones(1), torch.tensor([2]))]
    regions = model.box.roi_features(maps, detections[0].boxes, torch.tensor([0]))
    (masks,) = model.mask.predict(maps, detections, regions)
    torch.testing.assert_close(masks, model.mask.masks(model.mask.upsample(regions).relu())[:, 2].sigmoid())
    nn.init.normal_(model.box.cls_score.weight, std=0.5)
    (whole,) = model(batch_of(0))
    assert len(whole) and whole.masks.shape == (len(whole), 96, 96)


def test_imagenet_weights_are_loaded_into_the_trunk(tmp_path):
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(theirs, tmp_path / "resnet18.pth")
    parts = {"type": "resnet18", "out": ["c4", "c5"], "pretrained": str(tmp_path / "resnet18.pth")}
    config = {"type": "TwoStageDetector", "backbone": parts, "trunk": "c5", "rpn": RPN, "box": "BoxHead"}
    model = chordate.build_model(config, num_classes=2)
    for name, tensor in theirs.items():
        if not name.startswith("fc."):
            part = model.box.trunk.stage if name.startswith("layer4") else model.backbone
            assert torch.equal(part.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": {"type": "resnet18", "out": ["c4"]}},
            "ResNet-18: c5 cannot be removed from .* outputs c4; its `out`",
        ),
        (
            {"backbone": {"type": "resnet18", "out": ["c3", "c5"]}},
            "its `out` must end with two feature maps: that of the stage before c5, and c5",
        ),
        ({"trunk": "c4"}, r"ResNet-18 \(16 wide\): c4 cannot be removed from a backbone that outputs c4, c5"),
        ({"neck": {"type": "FPN"}}, 'trunk="c5" cannot be combined with neck; remove one'),
        ({"box": {"type": "BoxHead", "trunk": "ConvFC"}}, 'trunk="c5" cannot be combined with box.trunk; remove one'),
        ({"backbone": Tiny()}, "Tiny has no stage that can be removed; use another backbone, e.g. resnet50"),
    ],
)
def test_a_backbone_that_cannot_be_split_is_a_one_line_error(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        c4(**changes)
    assert "\n" not in str(error.value)


def test_dc5_has_stride_16_and_every_3x3_convolution_of_c5_dilated():
    """Detectron2's RES5_DILATION=2: stride 16, and dilation 2 in every 3×3 convolution of c5, including the first."""
    with torch.device("meta"):
        model = chordate.build_model("mask-rcnn_r50_dc5_1x_coco", pretrained=False)
    assert str(model.head_features) == "ResNet-50 offers c5 (2048 ch, stride 16)"
    assert [block.conv2.dilation for block in model.backbone.layer4] == [(2, 2)] * 3
    assert [block.conv2.stride for block in model.backbone.layer4] == [(1, 1)] * 3
    assert model.box.trunk.fcs[0].in_features == 2048 * 7 * 7


@pytest.mark.parametrize("name", ["faster-rcnn_r50_c4_1x_coco", "mask-rcnn_r50_dc5_1x_coco"])
def test_the_rpns_settings_without_fpn_are_detectron2s(name):
    """Five anchor sizes × three aspect ratios; RPN.PRE_NMS_TOPK and POST_NMS_TOPK for training and testing."""
    with torch.device("meta"):
        rpn = chordate.build_model(name, pretrained=False).rpn
    assert rpn.anchors.per_cell == 15
    assert tuple(rpn.pre_nms_topk) == (12000, 6000) and tuple(rpn.post_nms_topk) == (2000, 1000)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mask-rcnn_r50_fpn_1x_coco", 'backbone=dict(type="seresnet50")'),
        ("mask-rcnn_r50_fpn_1x_coco", 'backbone=dict(_delete_=True, type="convnext_tiny", pretrained=True)'),
        ("mask-rcnn_r50_c4_1x_coco", 'backbone=dict(_delete_=True, type="convnext_tiny", out=["c4", "c5"])'),
        ("mask-rcnn_r50_dc5_1x_coco", 'backbone=dict(type="resnext50_32x4d")'),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ("mask-rcnn_r50_fpn_1x_coco", 'backbone=dict(type="resnext50_32x4d")'),
                ("mask-rcnn_r50_c4_1x_coco", 'backbone=dict(type="seresnet50")'),
                ("mask-rcnn_r50_c4_1x_coco", 'backbone=dict(type="resnext101_64x4d")'),
                ("mask-rcnn_r50_dc5_1x_coco", 'backbone=dict(type="resnet101")'),
                ("cascade-mask-rcnn_r50_fpn_1x_coco", 'backbone=dict(type="resnext50_32x4d")'),
                ("keypoint-rcnn_r50_fpn_1x_coco", 'backbone=dict(type="seresnet50")'),
                ("retinanet_r50_fpn_1x_coco", 'backbone=dict(_delete_=True, type="convnext_tiny", pretrained=True)'),
            )
        ),
    ],
)
def test_another_backbone_takes_one_line_of_config(tmp_path, name, line):
    (tmp_path / "mine.py").write_text(f'base = "{name}"\nmodel = dict({line})\n')
    with torch.device("meta"):
        plain = chordate.build_model(name, pretrained=False)
        model = chordate.build_model(tmp_path / "mine.py", pretrained=False)
    assert model.backbone.name != plain.backbone.name
    assert model.classes == plain.classes and type(model) is type(plain)
