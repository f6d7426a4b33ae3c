"""Composed config names: any backbone in any packaged config, with the papers' recipes; errors name the wrong part."""

import subprocess
import sys

import pytest
import torch
import torchvision

import chordate
from chordate.config import find_config, list_configs, load_config, packaged_configs
from chordate.config_names import ALIASES
from chordate.errors import ConfigError
from chordate.published import PUBLISHED
from chordate.registry import BACKBONES

ROUTES = ["name", "base", "path"]
COMPOSED = {
    "mask-rcnn_convnext_tiny_fpn_1x_coco": ("mask-rcnn_r50_fpn_1x_coco", "convnext_tiny"),
    "faster-rcnn_seresnet50_32x4d_fpn_1x_coco": ("faster-rcnn_r50_fpn_1x_coco", "seresnext50_32x4d"),
    "retinanet_resnetrs50_fpn_1x_coco": ("retinanet_r50_fpn_1x_coco", "resnetrs50"),
    "mask-rcnn_x101-64x4d_fpn_3x_coco": ("mask-rcnn_r50_fpn_3x_coco", "resnext101_64x4d"),
    "faster-rcnn_convnext-t_c4_1x_coco": ("faster-rcnn_r50_c4_1x_coco", "convnext_tiny"),
    "wide_resnet101_2_imagenet": ("wide_resnet50_2_imagenet", "wide_resnet101_2"),
    "resnet32_cifar10": ("resnet20_cifar10", "resnet32_cifar"),
    "resnet1202_cifar10": ("resnet110_cifar10", "resnet1202_cifar"),
    "resnet18d_imagenet": ("resnet50_imagenet", "resnet18d"),
    "convnext_small_finetune_folder": ("convnext_tiny_finetune_folder", "convnext_small"),
    "faster-rcnn_resnet101_fpn_bccd": ("faster-rcnn_r18_fpn_bccd", "resnet101"),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("name", "base", "backbone"), [(name, *parts) for name, parts in COMPOSED.items()])
def test_a_name_composes_to_the_file_with_another_backbone(name, base, backbone, route, tmp_path):
    """The composed config equals the packaged config with `model.backbone.type` overridden."""
    expected = load_config(base, {"model.backbone.type": backbone})
    if route == "base":
        (tmp_path / "mine.py").write_text(f'base = "{name}"\ntrain = dict(seed=3)\n')
        config = load_config(tmp_path / "mine.py")
        expected.train.seed = 3
    else:
        config = load_config(name if route == "name" else f"configs/any/{name}.py")
    assert config.to_dict() == expected.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [name for name in BACKBONES.names() if name in BACKBONES.variants])
def test_every_backbone_goes_into_a_detector_or_a_classifier(backbone):
    stem = backbone.removesuffix("_cifar")
    names = [f"{stem}_cifar10"] if stem != backbone else [f"{stem}_imagenet", f"retinanet_{stem}_fpn_1x_coco"]
    for name in names:
        with torch.device("meta"):
            model = chordate.build_model(name, num_classes=3, pretrained=False)
        assert sum(p.numel() for p in model.parameters()) > 1e5


@pytest.mark.parametrize(("alias", "backbone"), ALIASES.items())
def test_an_alias_names_a_registered_backbone(alias, backbone):
    assert backbone in BACKBONES.names()
    assert load_config(f"retinanet_{alias}_fpn_1x_coco").model.backbone.type == backbone


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("convnext-s_imagenet", "convnext_small_imagenet"),
        ("d121_imagenet", "densenet121_imagenet"),
        ("se-x50-32x4d_imagenet", "seresnext50_32x4d_imagenet"),
        ("rs152_i256_imagenet", "resnetrs152_i256_imagenet"),
        ("preact-resnet110_cifar10", "preact_resnet110_cifar10"),
    ],
)
def test_a_short_backbone_name_has_the_recipe_of_the_backbones_paper(short, name):
    assert load_config(short).to_dict() == load_config(name).to_dict()


def test_a_folder_of_a_configs_name_does_not_hide_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mask-rcnn_r50_fpn_1x_coco", "mask-rcnn_r101_fpn_1x_coco", "resnet20_cifar10", "other"):
        (tmp_path / name).mkdir()
    assert load_config("mask-rcnn_r50_fpn_1x_coco").model.backbone.type == "resnet50"
    assert load_config("mask-rcnn_r101_fpn_1x_coco").model.backbone.type == "resnet101"
    assert load_config("resnet20_cifar100").train_data.dataset.type == "CIFAR100"
    with pytest.raises(ConfigError, match="other: a folder; name a config file"):
        load_config("other")


@pytest.mark.parametrize("name", ["_" * 3000, "a" * 3000, f"{'a' * 300}/x.py"], ids=["words", "word", "path"])
def test_a_very_long_name_is_unknown(name):
    with pytest.raises(ConfigError, match="unknown config|no such config file"):
        load_config(name)


def test_the_same_backbone_by_its_long_name_is_the_packaged_file():
    assert find_config("mask-rcnn_resnet50_fpn_1x_coco") == packaged_configs()["mask-rcnn_r50_fpn_1x_coco"]


def test_cifar_100_takes_the_recipes_of_cifar_10():
    config, other = load_config("wrn28_10_dropout_cifar100"), load_config("wrn28_10_dropout_cifar10")
    assert config.optimizer == other.optimizer and config.model.backbone == other.model.backbone
    assert config.train_data.dataset.type == config.val_data.dataset.type == "CIFAR100"
    assert config.model.preprocess.mean != other.model.preprocess.mean


@pytest.mark.parametrize(("name", "row"), PUBLISHED.items())
def test_each_published_name_is_a_config_with_the_settings_of_its_row(name, row):
    config = load_config(name)
    for setting, value in row.backbone.items():
        assert config.model.backbone[setting] == value
    if row.recipe and name not in packaged_configs():
        assert config.optimizer == load_config(row.recipe).optimizer


@pytest.mark.parametrize(
    ("name", "weights", "keys"),
    [
        ("faster-rcnn_r50_fpn_torchvision", "FasterRCNN_ResNet50_FPN", ["box"]),
        ("faster-rcnn_r50_fpn-v2_torchvision", "FasterRCNN_ResNet50_FPN_V2", ["box"]),
        ("mask-rcnn_r50_fpn_torchvision", "MaskRCNN_ResNet50_FPN", ["box", "mask"]),
        ("mask-rcnn_r50_fpn-v2_torchvision", "MaskRCNN_ResNet50_FPN_V2", ["box", "mask"]),
        ("keypoint-rcnn_r50_fpn_torchvision", "KeypointRCNN_ResNet50_FPN", ["box", "kp"]),
        ("retinanet_r50_fpn_torchvision", "RetinaNet_ResNet50_FPN", ["box"]),
        ("retinanet_r50_fpn-v2_torchvision", "RetinaNet_ResNet50_FPN_V2", ["box"]),
    ],
)
def test_torchvisions_figures_are_those_of_its_weights(name, weights, keys):
    module = torchvision.models.detection
    measured = getattr(module, f"{weights}_Weights").DEFAULT.meta["_metrics"]
    measured = measured.get("COCO-val2017-v1") or measured["COCO-val2017"]
    parts = [f"{measured[f'{key}_map']:.1f} {'keypoint' if key == 'kp' else key} AP" for key in keys]
    assert PUBLISHED[name].figure == ", ".join(parts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask-rcnn_convnext_tinny_fpn_1x_coco", 'unknown backbone "convnext_tinny"; did you mean "convnext_tiny"'),
        ("resnet51_imagenet", 'unknown backbone "resnet51"; did you mean .*"resnet50"'),
        ("resnet57_cifar100", 'unknown backbone "resnet57"; did you mean "resnet56"'),
        ("retinanet_efficientnet_b0_fpn_1x_coco", r'efficientnet_b0 is in timm .*dict\(type="TimmBackbone"'),
        ("mask-rcn_r50_fpn_1x_coco", 'unknown family "mask-rcn"; did you mean "mask-rcnn_r50_fpn_1x_coco"'),
        ("faster_rcnn_r50_fpn_1x_coco", 'unknown family "faster_rcnn"; did you mean "faster-rcnn_r50_fpn_1x_coco"'),
        ("r50_fpn_1x_coco", 'the family is missing; did you mean .*"faster-rcnn_r50_fpn_1x_coco"'),
        ("mask-rcnn_r18_fpn_2x_coco", 'no config has "2x" there; did you mean "mask-rcnn_r18_fpn_.x_coco"'),
        (
            "mask-rcnn_convnext_tiny_1x_coco",
            'no config has "1x" there; did you mean .*"mask-rcnn_convnext_tiny_fpn_1x_',
        ),
        ("resnet18_imagnet", 'no config has "imagnet" there; did you mean "resnet18_imagenet"'),
        ("resnet50", 'the name is incomplete; did you mean .*"resnet50_imagenet"'),
        ("yolov8n", "`chordate list models` shows what there is"),
    ],
)
def test_an_invalid_name_is_an_error_that_names_the_unknown_part(name, message):
    with pytest.raises(ConfigError, match=f'^unknown config "{name}".*{message}'):
        load_config(name)


@pytest.mark.parametrize("route", ["base", "option"])
def test_a_users_backbone_composes_once_its_module_is_imported(route, tmp_path):
    """Runs in its own process, so that no other test has imported the module."""
    (tmp_path / "my_backbones.py").write_text(
        "from chordate import BACKBONES\n"
        "BACKBONES.register_variants({'my_net': {'type': 'ResNet', 'depth': 50, 'base_channels': 16}})\n"
    )
    imports = 'dict(imports=["my_backbones"])'
    (tmp_path / "mine.py").write_text(f'custom_imports = {imports}\nbase = "mask-rcnn_my_net_fpn_1x_coco"\n')
    call = {
        "base": "load_config('mine.py')",
        "option": f"load_config('mask-rcnn_my_net_fpn_1x_coco', {{'custom_imports': {imports}}})",
    }[route]
    code = f"import sys; sys.path.append('.')\nfrom chordate import load_config\nprint({call}.model.backbone.type)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "my_net\n", done.stderr


def test_listed_names_are_packaged_or_published():
    assert set(list_configs()) == {*packaged_configs(), *PUBLISHED}
    assert list_configs("mask-rcnn_r101*") == ["mask-rcnn_r101_fpn_3x_coco"]
