"""Detectron2's weights: names, settings and configs. The reference is a table of the tensors that Detectron2 builds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_referee import slow, without_init
from torch import Tensor

import chordate
from chordate.config import load_config
from chordate.data.coco_classes import COCO_CLASSES
from chordate.models.preprocess import Normalize
from chordate.weights.candidates import formats
from chordate.weights.checkpoint_conversion import recognized_config
from chordate.weights.find_weights import Weights
from chordate.weights.formats.architecture import detector
from chordate.weights.formats.detectron2_imagenet import Detectron2ResNet
from chordate.weights.formats.detectron2_settings import image_settings
from chordate.weights.formats.format import Format
from chordate.weights.numerics import differing_settings, read_setting

TABLE = json.loads((Path(__file__).parent / "data/detectron2_names.json").read_text())
CONFIGS = {
    "Faster R-CNN FPN": "faster-rcnn_r50_fpn_1x_coco",
    "Faster R-CNN C4": "faster-rcnn_r50_c4_1x_coco",
    "Faster R-CNN DC5": "faster-rcnn_r50_dc5_1x_coco",
    "Mask R-CNN FPN": "mask-rcnn_r50_fpn_1x_coco",
    "Mask R-CNN C4": "mask-rcnn_r50_c4_1x_coco",
    "Mask R-CNN DC5": "mask-rcnn_r50_dc5_1x_coco",
    "Mask R-CNN FPN, GroupNorm": "mask-rcnn_r50_fpn_1x_coco",
    "Mask R-CNN FPN, SyncBN": "mask-rcnn_r50_fpn_1x_coco",
    "Cascade Mask R-CNN FPN": "cascade-mask-rcnn_r50_fpn_1x_coco",
    "Keypoint R-CNN FPN": "keypoint-rcnn_r50_fpn_1x_coco",
    "RetinaNet": "retinanet_r50_fpn_1x_coco",
    "Panoptic FPN": "panoptic-fpn_r50_fpn_1x_coco",
    "DeepLab v3": "deeplabv3_r50c_d8_80k_cityscapes",
    "DeepLab v3+": "deeplabv3plus_r50c_d8_80k_cityscapes",
    "Panoptic-DeepLab": "panoptic-deeplab_r50c_cityscapes",
    "Panoptic-DeepLab, DSConv": "panoptic-deeplab_r50c_cityscapes",
    "Faster R-CNN FPN, torchvision's ResNet": "faster-rcnn_r50_fpn_1x_coco",
}
# Families marked slow: the Mask R-CNN of the same layout has all their tensors and settings, and more.
SLOW = ("Faster R-CNN C4", "Faster R-CNN DC5")
FAMILIES = [*(family for family in CONFIGS if family not in SLOW), *slow(*SLOW)]


def shapes(family: str) -> dict[str, list[int]]:
    """The tensor shapes of a Detectron2 model, keyed by tensor name."""
    model = TABLE["models"][family]
    resnet = {model["prefix"] + name: shape for name, shape in TABLE["resnets"][model["resnet"]].items()}
    return {**resnet, **model["tensors"]}


def weights(family: str, mean: float = 0.0) -> dict[str, Tensor]:
    """Tensors of a Detectron2 model, expanded from scalars to save memory; the norms' running means are `mean`."""
    values = {name: mean if name.endswith("running_mean") else float(i) for i, name in enumerate(shapes(family))}
    return {name: torch.tensor(values[name]).expand(shape) for name, shape in shapes(family).items()}


@cache
def built(family: str) -> Any:
    """The name of the config that is inferred from the weights, and its model on the meta device."""
    name, overrides = recognized_config(Weights(weights(family), None, "file"))
    config = load_config(name, overrides)
    with torch.device("meta"):
        model = chordate.build_model(config, pretrained=False)
    model.preprocess = Normalize(**config.model.preprocess)
    return name, model


def format_of(state: dict[str, Tensor]) -> Format:
    (found,) = [format for format in formats() if format.library == "detectron2" and format.recognizes(state)]
    return found


def test_the_table_has_all_families():
    assert set(TABLE["models"]) == set(CONFIGS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_tell_their_config(family):
    assert built(family)[0] == CONFIGS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_are_our_models(family):
    state, (_, model) = weights(family), built(family)
    ours = format_of(state).convert(state, model)
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_round_trip_keeps_every_name_and_tensor(family):
    state, (_, model) = weights(family), built(family)
    format = format_of(state)
    restored = format.restore(format.convert(state, model), model)
    assert restored.keys() == state.keys() and all(torch.equal(restored[name], state[name]) for name in state)


def test_the_decoder_of_deeplab_v3plus_reads_aspp_before_the_finer_map():
    """Detectron2 concatenates 48 channels of the finer map and 256 of ASPP, in this order; our order is the reverse."""
    state, (_, model) = weights("DeepLab v3+"), built("DeepLab v3+")
    name = "sem_seg_head.decoder.res2.fuse_conv.0.weight"
    state[name] = torch.randn(state[name].shape)
    ours = format_of(state).convert(state, model)["head.decoder.0.0.weight"]
    low, aspp = torch.randn(1, 48, 5, 5), torch.randn(1, 256, 5, 5)
    theirs = torch.conv2d(torch.cat([low, aspp], 1), state[name])
    torch.testing.assert_close(torch.conv2d(torch.cat([aspp, low], 1), ours), theirs, atol=1e-3, rtol=1e-4)
    assert torch.equal(format_of(state).restore(format_of(state).convert(state, model), model)[name], state[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_of_the_config_has_all_settings_of_the_weights(family):
    """The model of the recognized config has the settings that are inferred from the weights."""
    state, (_, model) = weights(family), built(family)
    settings = format_of(state).settings(state)
    assert differing_settings(model, settings) == {}
    assert [name for name in settings if read_setting(model, name) is None] == []


@pytest.mark.parametrize(
    ("family", "divisor"),
    [
        ("Faster R-CNN FPN", 32),
        ("Faster R-CNN C4", 1),
        ("Mask R-CNN DC5", 1),
        ("RetinaNet", 32),
        ("DeepLab v3+", 1),
        ("Panoptic-DeepLab", 1),
        ("Panoptic-DeepLab, DSConv", 640),
    ],
)
def test_images_are_padded_as_in_detectron2(family, divisor):
    """`Backbone.size_divisibility`: 0 (here 1) without FPN, else the stride of res5; RetinaNet's p7 does not count.

    The config of Panoptic-DeepLab on COCO (DSConv) overrides it: PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY is 640.
    """
    assert built(family)[1].size_divisor == divisor


def test_zero_running_means_indicate_msras_weights_and_others_torchvisions():
    """MSRA's ResNets expect BGR images and std 1, and have the stride in the 1×1 convolution; torchvision's expect RGB
    images and ImageNet's std, and have the stride in the 3×3 convolution."""
    msra, other = (format_of(state).settings(state) for state in (weights("RetinaNet"), weights("RetinaNet", 0.1)))
    assert (msra["preprocess.bgr"], msra["preprocess.std"], msra["backbone.style"]) == (True, (1.0, 1.0, 1.0), "caffe")
    assert msra["preprocess.mean"] == (103.53, 116.28, 123.675)
    assert (other["preprocess.bgr"], other["backbone.style"]) == (False, "pytorch")
    assert other["preprocess.std"] == (58.395, 57.12, 57.375)


# Arguments of `first_layers`; std and style are PIXEL_STD and STRIDE_IN_1X1 of Detectron2's yaml files. Its catalog.py
# says that all ImageNet weights of Caffe2 have std 1, and that only MSRA's have the stride in the 1×1 convolution.
NETWORKS = {
    "X-101-32x8d": ({"blocks": 23, "groups": 32, "width": 8, "mean": 0.1}, (57.375, 57.12, 58.395), "pytorch"),
    "X-101-64x4d of Caffe2": ({"blocks": 23, "groups": 64, "width": 4}, (1.0, 1.0, 1.0), "pytorch"),
    "X-152-32x8d-IN5k of Caffe2": ({"blocks": 36, "groups": 32, "width": 8}, (1.0, 1.0, 1.0), "pytorch"),
    "X-152-32x8d with pixel_std": ({"blocks": 36, "groups": 32, "width": 8, "std": 1.0}, (1.0, 1.0, 1.0), "pytorch"),
    "R-50 of MSRA with pixel_std": ({"std": 1.0}, (1.0, 1.0, 1.0), "caffe"),
    "scratch_mask_rcnn_R_50_FPN_9x_syncbn": ({"mean": 0.1, "trained": True}, (57.375, 57.12, 58.395), "pytorch"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_bgr_networks_have_the_std_and_the_stride_of_their_configs(network):
    first, std, style = NETWORKS[network]
    settings = image_settings(first_layers(**first), "")
    assert settings["preprocess.bgr"] and settings["preprocess.mean"] == (103.53, 116.28, 123.675)
    assert (settings["preprocess.std"], settings["backbone.style"]) == (std, style)


def test_a_frozen_stem_of_a_network_with_syncbn_has_msras_statistics():
    """`FrozenBatchNorm2d.convert_frozen_batchnorm` keeps the counter of BatchNorm, which is 0 in a frozen stem."""
    state = first_layers() | {"stem.conv1.norm.num_batches_tracked": torch.tensor(0)}
    assert image_settings(state, "") == image_settings(first_layers(), "")
    assert image_settings(state, "")["preprocess.std"] == (1.0, 1.0, 1.0)


def first_layers(blocks=6, groups=1, width=64, mean=0.0, std=None, trained=False) -> dict[str, Tensor]:
    """The tensors from which the settings of a bottleneck ResNet are inferred; `trained`: BatchNorm is not frozen."""
    state = {f"res4.{number}.conv1.weight": torch.zeros(1) for number in range(blocks)}
    state |= {"res2.0.conv2.weight": torch.zeros(groups * width, width, 3, 3), "res2.0.conv3.weight": torch.zeros(1)}
    state["stem.conv1.norm.running_mean"] = torch.full((64,), mean)
    if trained:
        state["stem.conv1.norm.num_batches_tracked"] = torch.tensor(9)
    if std:
        state |= {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]), "pixel_std": torch.full((3,), std)}
    return state


def test_guessed_settings_are_compared_with_the_options_of_detectron2():
    state = weights("RetinaNet")
    assert "INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD" in format_of(state).guesses(state)
    state |= {"pixel_mean": torch.zeros(3), "pixel_std": torch.ones(3)}
    assert "PIXEL_MEAN" not in format_of(state).guesses(state)
    assert "MODEL.RESNETS.STRIDE_IN_1X1" in format_of(state).guesses(state)


@pytest.mark.parametrize(("family", "extra"), [("resnet18", "c5"), ("resnet50", "c5"), ("resnet18", "p5")])
def test_the_extra_levels_of_retinanet_read_c5_of_any_width_or_p5(family, extra):
    """LastLevelP6P7 reads res5 (2048 channels, or 512 in R-18 and R-34), or p5 as in torchvision's v1 RetinaNet."""
    shapes = {
        "neck.lateral.c5.0.weight": [256, {"resnet18": 512, "resnet50": 2048}[family], 1, 1],
        "neck.extra.p6.weight": [256, {"resnet18": 512, "resnet50": 2048}[family] if extra == "c5" else 256, 3, 3],
        "head.cls_score.weight": [720], "head.cls_score.bias": [720], "head.bbox_pred.bias": [36],
    }  # fmt: skip
    with torch.device("meta"):
        state = {f"backbone.{name}": x for name, x in chordate.build_backbone(family).state_dict().items()}
        name, overrides = detector({**state, **{key: torch.zeros(shape) for key, shape in shapes.items()}}, None)
        model = chordate.build_model(load_config(name, overrides), pretrained=False)
    assert list(model.neck.extra.p6.weight.shape) == shapes["neck.extra.p6.weight"]


def test_the_second_extra_level_of_retinanet_is_computed_after_a_relu():
    """`LastLevelP6P7.forward`: `p7 = self.p7(F.relu(p6))`."""
    assert built("RetinaNet")[1].neck.extra_relu is True
    state = weights("RetinaNet")
    assert format_of(state).settings(state)["neck.extra_relu"] is True


def test_the_mean_and_std_of_old_files_are_settings_not_tensors():
    state = weights("Mask R-CNN FPN")
    state["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    state["pixel_std"] = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    format = format_of(state)
    assert format.settings(state)["preprocess.bgr"] is False
    assert format.convert(state, None).keys() == built("Mask R-CNN FPN")[1].state_dict().keys()


def test_other_classes_and_agnostic_boxes_are_in_the_config():
    state = weights("Faster R-CNN FPN")
    for name, rows in {"cls_score": 4, "bbox_pred": 4}.items():
        for kind in ("weight", "bias"):
            key = f"roi_heads.box_predictor.{name}.{kind}"
            state[key] = state[key][:rows]
    name, overrides = recognized_config(Weights(state, None, "file"))
    with torch.device("meta"):
        model = chordate.build_model(load_config(name, overrides), pretrained=False)
    assert len(model.classes) == 3 and model.box.bbox_pred.out_features == 4


def test_a_model_with_cocos_classes_knows_their_names():
    assert built("RetinaNet")[1].classes == COCO_CLASSES


def test_a_model_with_torchvisions_settings_differs_in_each():
    """The packaged config has RGB images, ImageNet's std, the stride in the 3×3 convolution, and padding to 32."""
    with torch.device("meta"):
        model = chordate.build_model("faster-rcnn_r50_c4_1x_coco", pretrained=False)
    model.preprocess = Normalize()
    state = weights("Faster R-CNN C4")
    assert differing_settings(model, format_of(state).settings(state)) == {
        "model.preprocess.bgr": True,
        "model.preprocess.mean": (103.53, 116.28, 123.675),
        "model.preprocess.std": (1.0, 1.0, 1.0),
        "model.size_divisor": 1,
        "model.backbone.style": "caffe",
    }


def test_the_warning_about_other_settings_says_that_they_are_guessed():
    state = {name: torch.zeros(shape) for name, shape in TABLE["resnets"]["resnet 0"].items()}
    message = r"set --cfg-options model\.backbone\.style=caffe \(colors.*are guessed"
    with without_init(), pytest.warns(UserWarning, match=message):
        chordate.load_checkpoint(chordate.build_backbone("resnet50"), state)


def imagenet() -> dict[str, Tensor]:
    state = {name: torch.randn(shape) for name, shape in TABLE["resnets"]["resnet 0"].items()}
    return {**state, "stem.fc.weight": torch.randn(1000, 2048), "stem.fc.bias": torch.randn(1000)}


def test_imagenet_weights_load_into_a_backbone_and_a_classifier():
    state = imagenet()
    backbone = chordate.build_backbone("resnet50")
    report = chordate.load_checkpoint(backbone, state)
    assert report.format == "detectron2" and not report.missing
    assert torch.equal(backbone.layer4[0].downsample[0].weight, state["res5.0.shortcut.weight"])
    name, _ = recognized_config(Weights(state, None, "file"))
    assert name == "r50_imagenet"
    classifier = chordate.build_model(name, pretrained=False)
    assert not chordate.load_checkpoint(classifier, state).missing
    assert torch.equal(classifier.head.fc.weight, state["stem.fc.weight"])


def test_caffe2_blobs_of_msras_resnet_have_identity_statistics():
    """`res2_0_branch2a_bn_s` and `_b` are scale and shift; the mean must be 0, and the variance plus eps 1."""
    theirs = {
        "conv1_w": torch.ones(64, 3, 7, 7), "conv1_b": torch.ones(64), "res_conv1_bn_s": torch.full((64,), 2.0),
        "res_conv1_bn_b": torch.ones(64), "res2_0_branch1_w": torch.ones(256, 64, 1, 1),
        "res2_0_branch1_bn_s": torch.ones(256), "res2_0_branch2a_w": torch.ones(64, 64, 1, 1),
        "res2_0_branch2b_bn_b": torch.ones(64), "res2_0_branch2a_w_momentum": torch.ones(1), "fc1000_b": torch.ones(9),
    }  # fmt: skip
    ours = Detectron2ResNet().convert(theirs, chordate.build_backbone("resnet18"))
    assert ours.keys() == {
        "conv1.weight", *(f"bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "layer1.0.downsample.0.weight", "layer1.0.downsample.1.weight", "layer1.0.downsample.1.running_mean",
        "layer1.0.downsample.1.running_var", "layer1.0.conv1.weight", "layer1.0.bn2.bias",
        "layer1.0.bn2.running_mean", "layer1.0.bn2.running_var", "fc.bias",
    }  # fmt: skip
    scale = ours["bn1.weight"] * (ours["bn1.running_var"] + 1e-5).rsqrt()
    assert torch.equal(scale, theirs["res_conv1_bn_s"]) and not ours["bn1.running_mean"].any()
