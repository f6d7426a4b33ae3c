"""Our models, saved in torchvision's or timm's format, load strictly in that library; classifiers have equal scores."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from backbone_referee import referee, slow
from torch import nn

import chordate
from chordate.errors import CheckpointError
from chordate.weights.checkpoint_conversion import restored
from chordate.weights.loading import load_checkpoint

CLASSIFIERS: dict[str, tuple[str, str, Callable[[], nn.Module]]] = {
    "resnet18": ("resnet18", "torchvision", lambda: torchvision.models.resnet18(num_classes=5)),
    "resnext50_32x4d": (
        "resnext50_32x4d", "torchvision", lambda: torchvision.models.resnext50_32x4d(num_classes=5),
    ),
    "densenet121": ("densenet121", "torchvision", lambda: torchvision.models.densenet121(num_classes=5)),
    "convnext_tiny": ("convnext_tiny", "torchvision", lambda: torchvision.models.convnext_tiny(num_classes=5)),
    "timm's convnext_tiny": ("convnext_tiny", "timm", lambda: timm.create_model("convnext_tiny", num_classes=5)),
    "timm's seresnet50": ("seresnet50", "timm", lambda: timm.create_model("seresnet50", num_classes=5)),
    "timm's resnet50c": ("resnet50c", "timm", lambda: timm.create_model("resnet50c", num_classes=5)),
    "timm's resnetv2_50": ("preact_resnet50", "timm", lambda: timm.create_model("resnetv2_50", num_classes=5)),
}  # fmt: skip


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    names = {name for name in one if not name.endswith("num_batches_tracked")}
    return names <= other.keys() and all(torch.equal(one[name], other[name]) for name in names)


def assert_comes_back(model: nn.Module, contents: dict[str, torch.Tensor]) -> None:
    fresh = copy.deepcopy(model)
    for value in fresh.state_dict().values():
        value.zero_()
    load_checkpoint(fresh, contents)
    assert same(model.state_dict(), fresh.state_dict())


@torch.no_grad()
@pytest.mark.parametrize(
    "case",
    # ResNeXt is marked slow, since its names are converted by the same code as those of ResNet.
    [*(case for case in CLASSIFIERS if case != "resnext50_32x4d"), *slow("resnext50_32x4d")],
)
def test_a_classifier_gives_the_same_scores_in_its_library(case):
    name, library, build = CLASSIFIERS[case]
    head = {"type": "ClassificationHead", "norm": "LN" if "convnext" in name else None}
    config = {"type": "ImageClassifier", "backbone": name, "head": head}
    torch.manual_seed(0)
    ours = referee(lambda: chordate.build_model(config, num_classes=5, pretrained=False))
    contents = restored(ours, library)
    with torch.device("meta"):
        theirs = build().eval()
    theirs.load_state_dict(contents, assign=True)  # strict
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.logits(images), theirs(images), rtol=1e-4, atol=1e-4)
    assert_comes_back(ours, contents)


DETECTORS = {
    "faster-rcnn_r50_fpn_torchvision": "fasterrcnn_resnet50_fpn",
    "mask-rcnn_r50_fpn_torchvision": "maskrcnn_resnet50_fpn",
    "keypoint-rcnn_r50_fpn_torchvision": "keypointrcnn_resnet50_fpn",
    "faster-rcnn_r50_fpn-v2_torchvision": "fasterrcnn_resnet50_fpn_v2",
    "mask-rcnn_r50_fpn-v2_torchvision": "maskrcnn_resnet50_fpn_v2",
    "retinanet_r50_fpn_torchvision": "retinanet_resnet50_fpn",
    "retinanet_r50_fpn-v2_torchvision": "retinanet_resnet50_fpn_v2",
    "deeplabv3_r50_d8_torchvision": "deeplabv3_resnet50",
    "fcn_r50_d8_torchvision": "fcn_resnet50",
}


# Marked slow, since other models have all their parts: Mask R-CNN v2 and Keypoint R-CNN have those of the other R-CNNs,
# and RetinaNet v2 has those of v1.
COVERED = [
    "faster-rcnn_r50_fpn_torchvision", "faster-rcnn_r50_fpn-v2_torchvision", "mask-rcnn_r50_fpn_torchvision",
    "retinanet_r50_fpn_torchvision",
]  # fmt: skip


@pytest.mark.parametrize("name", [*(name for name in DETECTORS if name not in COVERED), *slow(*COVERED)])
def test_torchvision_loads_our_model_strictly_and_its_weights_come_back(name):
    """Weights that are written and read again are equal; `test_torchvision_*.py` compares predictions."""
    torch.manual_seed(0)
    kinds = {"keypoint": 1, "deeplab": 21, "fcn": 21, "retinanet": 91}
    classes = next((count for kind, count in kinds.items() if name.startswith(kind)), 7)
    with torch.device("meta"):
        ours = chordate.build_model(name, num_classes=classes, pretrained=False)
    ours.to_empty(device="cpu")
    for value in ours.state_dict().values():
        value.copy_(torch.rand(value.shape))
    contents = restored(ours, "torchvision")
    auxiliary = {"aux_loss": "auxiliary.logits.weight" in ours.state_dict()} if name.startswith(("deep", "fcn")) else {}
    outputs = classes if auxiliary or name.startswith("retinanet") else classes + 1
    with torch.device("meta"):
        theirs = torchvision.models.get_model(
            DETECTORS[name], weights=None, weights_backbone=None, num_classes=outputs, **auxiliary
        )
    theirs.load_state_dict(contents, assign=True)  # strict
    assert_comes_back(ours, contents)


def test_a_model_without_counterpart_is_refused_in_one_line():
    model = chordate.build_model("cascade-rcnn_r50_fpn_1x_coco", num_classes=2, pretrained=False)
    with pytest.raises(CheckpointError, match="TwoStageDetector cannot be written as torchvision: .*"):
        restored(model, "torchvision")
    with pytest.raises(CheckpointError, match='unknown library "torchvison"; did you mean "torchvision"'):
        restored(model, "torchvison")
