"""The tensors of torchvision's and timm's weights determine the config and the settings they were trained with."""

from typing import Any

import pytest
import timm
import torch
import torchvision

import chordate
from chordate.config import load_config
from chordate.errors import CheckpointError
from chordate.weights.candidates import formats
from chordate.weights.checkpoint_conversion import recognized_config
from chordate.weights.find_weights import Weights
from chordate.weights.numerics import differing_settings, read_setting

DETECTORS = {
    "fasterrcnn_resnet50_fpn": "faster-rcnn_resnet50_fpn_torchvision",
    "maskrcnn_resnet50_fpn": "mask-rcnn_resnet50_fpn_torchvision",
    "keypointrcnn_resnet50_fpn": "keypoint-rcnn_resnet50_fpn_torchvision",
    "fasterrcnn_resnet50_fpn_v2": "faster-rcnn_resnet50_fpn-v2_torchvision",
    "maskrcnn_resnet50_fpn_v2": "mask-rcnn_resnet50_fpn-v2_torchvision",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn_torchvision",
    "retinanet_resnet50_fpn_v2": "retinanet_resnet50_fpn-v2_torchvision",
    "deeplabv3_resnet50": "deeplabv3_resnet50_d8_torchvision",
    "fcn_resnet101": "fcn_resnet101_d8_torchvision",
}
CLASSIFIERS = {
    "resnet34": "resnet34_imagenet",
    "resnext50_32x4d": "resnext50_32x4d_imagenet",
    "wide_resnet50_2": "wide_resnet50_2_imagenet",
    "densenet121": "densenet121_imagenet",
    "convnext_tiny": "convnext_tiny_imagenet",
    "timm/resnet18d": "resnet18d_imagenet",
    "timm/resnet50c": "resnet50c_imagenet",
    "timm/seresnet50": "seresnet50_imagenet",
    "timm/resnetv2_50": "preact_resnet50_imagenet",
    "timm/convnext_tiny": "convnext_tiny_imagenet",
}


def weights(name: str) -> Weights:
    """A library's state dict on the meta device. COCO_V1 weights of torchvision's detectors have no
    `num_batches_tracked`, since their norms are FrozenBatchNorm2d."""
    with torch.device("meta"):
        if name.startswith("timm/"):
            network = timm.create_model(name.removeprefix("timm/"))
        else:
            network = torchvision.models.get_model(name, **({"weights_backbone": None} if name in DETECTORS else {}))
    state = network.state_dict()
    if name.endswith("net50_fpn"):
        state = {key: x for key, x in state.items() if not key.endswith("num_batches_tracked")}
    return Weights(state, None, name)


def settings_of(name: str) -> dict[str, Any]:
    state = weights(name).state
    return next(format.settings(state) for format in formats() if format.recognizes(state))


@pytest.mark.parametrize("name", [*DETECTORS, *CLASSIFIERS])
def test_the_tensors_tell_the_config(name):
    config, overrides = recognized_config(weights(name))
    assert config == (DETECTORS | CLASSIFIERS)[name]
    assert load_config(config, overrides).model.backbone


@pytest.mark.parametrize(
    "name", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn_v2", "deeplabv3_resnet50"]
)
def test_the_model_of_the_config_has_every_setting(name):
    """The packaged `…_torchvision` configs have the settings that are inferred from torchvision's weights."""
    settings = settings_of(name)
    plain = chordate.build_model(recognized_config(weights(name))[0], pretrained=False)
    assert {key for key in settings if read_setting(plain, key) is None} == set()
    assert differing_settings(plain, settings) == {}


def test_torchvisions_detectors_differ_from_our_recipe_in_each_setting():
    ours = chordate.build_model("mask-rcnn_r18_fpn_1x_coco", pretrained=False)
    differing = {key.removeprefix("model.") for key in differing_settings(ours, settings_of("maskrcnn_resnet50_fpn"))}
    heads = {f"{head}.{setting}" for head in ("box", "mask") for setting in ("aligned", "sampling_ratio")}
    assert differing == heads | {"rpn.anchors.rounded", "rpn.anchors.stride_from_grid", "backbone.norm.eps"}


def test_a_tensor_without_elements_is_refused():
    """A tensor without elements takes no space in a file, but its shape could ask for a network of any size."""
    state = weights("fasterrcnn_resnet50_fpn").state
    state["roi_heads.box_predictor.cls_score.bias"] = torch.empty(10**9, 0)
    with pytest.raises(CheckpointError, match=r"x: roi_heads.box_predictor.cls_score.bias has no elements"):
        recognized_config(Weights(state, None, "x"))


def test_the_head_of_fcos_is_no_retinanet():
    with torch.device("meta"):
        fcos = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    with pytest.raises(CheckpointError, match=r"x \(unknown library\): its config cannot be determined"):
        recognized_config(Weights(fcos.state_dict(), None, "x"))


def test_three_means_are_not_recommended_for_images_of_one_channel():
    model = {"type": "ImageClassifier", "backbone": {"type": "resnet18", "in_channels": 1}}
    model["preprocess"] = {"mean": [127.5], "std": [127.5]}
    gray = chordate.build_model({"model": model}, num_classes=2, pretrained=False)
    differing = differing_settings(gray, settings_of("maskrcnn_resnet50_fpn"))
    assert "model.backbone.norm.eps" in differing and not any("preprocess" in name for name in differing)
