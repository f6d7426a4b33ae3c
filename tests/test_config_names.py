"""Composed config names: any backbone in any packaged config, with the papers' recipes."""

from pathlib import Path

import pytest
import torch

import chordate
from chordate.config import find_config, load_config, packaged_configs
from chordate.config_names import package_root
from chordate.config_templates import ALIASES, read_templates
from chordate.errors import ConfigError
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
    "deeplabv2_r50_d8_20k_voc-aug": ("deeplabv2_r101_d8_20k_voc-aug", "resnet50"),
    "resnet1202_cifar10": ("resnet110_cifar10", "resnet1202_cifar"),
    "resnet18d_imagenet": ("resnet50_imagenet", "resnet18d"),
    "convnext_small_finetune_folder": ("convnext_tiny_finetune_folder", "convnext_small"),
    "faster-rcnn_resnet101_fpn_bccd": ("faster-rcnn_r18_fpn_bccd", "resnet101"),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("name", "base", "backbone"), [(name, *parts) for name, parts in COMPOSED.items()])
def test_a_name_composes_to_the_file_with_another_backbone(name, base, backbone, route, tmp_path):
    """The composed config equals the config `base` with `model.backbone.type` overridden."""
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


@pytest.mark.parametrize(
    ("short", "size", "name"),
    [
        ("resnetrs50_imagenet", 160, "resnetrs50_i160_imagenet"),
        ("resnetrs152_imagenet", 192, "resnetrs152_i192_imagenet"),
        ("rs420_imagenet", 320, "resnetrs420_i320_imagenet"),
    ],
)
def test_a_family_whose_recipes_depend_on_the_image_size_has_its_smallest_published_size(short, size, name):
    config = load_config(short)
    assert config.to_dict() == load_config(name).to_dict()
    assert Path(config.filename).stem == name and config.train_data.pipeline[0]["size"] == size


@pytest.mark.parametrize("name", packaged_configs())
def test_a_packaged_name_is_split_at_the_backbone_of_its_file(name):
    parts = read_templates(package_root()).parts[name]
    assert parts.backbone == load_config(name).model.backbone.type
    assert name.startswith(parts.head) and name.endswith(parts.tail)


@pytest.fixture
def registered():
    """A function that registers the backbone `of` under other names, which are removed after the test."""
    names = list[str]()

    def register(*new: str, of: str = "resnet50") -> None:
        BACKBONES.names()  # registers the package's backbones first
        BACKBONES.register_variants(dict.fromkeys(new, BACKBONES.variants[of]))
        names.extend(new)
        read_templates.cache_clear()

    yield register
    for name in names:
        del BACKBONES.variants[name]
    read_templates.cache_clear()


def test_own_backbones_named_like_parts_of_packaged_names_do_not_change_what_other_names_mean(registered):
    names = [*COMPOSED, "resnet50_imagenet", "resnetrs50_imagenet", "wrn40_4_dropout_cifar100"]
    before = {name: find_config(name) for name in names}
    splits_before = read_templates(package_root())
    registered("mask-rcnn", "faster-rcnn", "fpn", "1x", "convnext", "tiny", "i384", "wide", "dropout", "fpn_1x")
    assert read_templates(package_root()) == splits_before
    assert {name: find_config(name) for name in names} == before
    with pytest.raises(ConfigError, match='no config has "2x" there'):
        load_config("mask-rcnn_r18_fpn_2x_coco")
    with pytest.raises(ConfigError):
        load_config("resnet50_tiny_imagenet")
    assert load_config("retinanet_tiny_fpn_1x_coco").model.backbone.type == "tiny"


def test_an_own_backbone_comes_before_a_short_form_of_the_same_spelling(registered):
    registered("r101", of="resnet18")
    assert load_config("retinanet_r101_fpn_1x_coco").model.backbone.type == "r101"
    assert load_config("r101_imagenet").model.backbone.type == "r101"
    assert load_config("retinanet_resnet101_fpn_1x_coco").model.backbone.type == "resnet101"


def test_an_own_backbone_of_a_published_family_follows_the_familys_recipe(registered):
    """On ImageNet, DenseNets follow WRN's recipe; no packaged config trains a DenseNet on ImageNet."""
    registered("densenet264", of="densenet121")
    registered("plain18_wide", of="plain18")
    assert load_config("densenet264_imagenet").optimizer == load_config("wide_resnet50_2_imagenet").optimizer
    assert load_config("densenet264_imagenet").optimizer.nesterov
    assert load_config("plain18_wide_imagenet").optimizer == load_config("resnet50_imagenet").optimizer


@pytest.mark.parametrize(
    ("spellings", "stem"),
    [
        (["mask-rcnn_r50_fpn_1x_coco", "mask-rcnn_resnet50_fpn_1x_coco"], "mask-rcnn_r50_fpn_1x_coco"),
        (["faster-rcnn_r101_fpn_3x_coco", "faster-rcnn_resnet101_fpn_3x_coco"], "faster-rcnn_r101_fpn_3x_coco"),
        (["retinanet_r101_fpn_1x_coco", "retinanet_resnet101_fpn_1x_coco"], "retinanet_resnet101_fpn_1x_coco"),
        (["d121_imagenet", "densenet121_imagenet"], "densenet121_imagenet"),
        (["preact-resnet110_cifar100", "preact_resnet110_cifar100"], "preact_resnet110_cifar100"),
        (["resnet20_cifar100", "resnet20_cifar_cifar100"], "resnet20_cifar100"),
    ],
)
def test_all_spellings_of_a_name_have_one_work_dir(spellings, stem):
    """The default work dir is `work_dirs/<stem of the config's file name>`."""
    assert {Path(load_config(name).filename).stem for name in spellings} == {stem}


def test_a_folder_of_a_configs_name_does_not_hide_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mask-rcnn_r50_fpn_1x_coco", "mask-rcnn_r101_fpn_1x_coco", "resnet20_cifar10", "other"):
        (tmp_path / name).mkdir()
    assert load_config("mask-rcnn_r50_fpn_1x_coco").model.backbone.type == "resnet50"
    assert load_config("mask-rcnn_r101_fpn_1x_coco").model.backbone.type == "resnet101"
    assert load_config("resnet20_cifar100").train_data.dataset.type == "CIFAR100"
    with pytest.raises(ConfigError, match="other is a folder; name a config file"):
        load_config("other")


def test_the_same_backbone_by_its_long_name_is_the_packaged_file():
    assert find_config("mask-rcnn_resnet50_fpn_1x_coco") == packaged_configs()["mask-rcnn_r50_fpn_1x_coco"]


def test_cifar_100_takes_the_recipes_of_cifar_10():
    config, other = load_config("wrn28_10_dropout_cifar100"), load_config("wrn28_10_dropout_cifar10")
    assert config.optimizer == other.optimizer and config.model.backbone == other.model.backbone
    assert config.train_data.dataset.type == config.val_data.dataset.type == "CIFAR100"
    assert config.model.preprocess.mean != other.model.preprocess.mean


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("deeplabv3plus_convnext_tiny_d16_80k_ade20k", 16),
        ("deeplabv3plus_convnext_tiny_d8_80k_ade20k", 8),
        ("pspnet_r101_d32_80k_cityscapes", 32),
        ("deeplabv2_convnext_tiny_d16_20k_voc-aug", 16),
    ],
)
def test_the_output_stride_is_part_of_a_name(name, stride):
    with torch.device("meta"):
        model = chordate.build_model(name, pretrained=False)
    assert model.backbone.out_features["c5"].stride == stride


@pytest.mark.parametrize("model", ["faster-rcnn_r50_fpn", "retinanet_convnext_tiny_fpn", "panoptic-fpn_r50_fpn"])
def test_3x_is_1x_with_three_times_the_epochs(model):
    short, long = load_config(f"{model}_1x_coco"), load_config(f"{model}_3x_coco")
    assert long.train == {**short.train, "epochs": 3 * short.train.epochs}
    assert long.schedule == {**short.schedule, "milestones": [27, 33]}  # MMDetection's ms_3x_coco.py
    assert (long.model, long.train_data, long.optimizer) == (short.model, short.train_data, short.optimizer)


@pytest.mark.parametrize("model", ["faster-rcnn_r50_fpn", "retinanet_convnext_tiny_fpn", "panoptic-fpn_r50_fpn"])
def test_a_finetuning_config_is_1x_with_a_short_schedule_and_frozen_stages(model):
    expected, config = load_config(f"{model}_1x_coco"), load_config(f"{model}_finetune_coco")
    assert config.optimizer.lr <= expected.optimizer.lr / 5 and config.train.epochs < expected.train.epochs
    assert config.model.backbone.frozen_stages == 2
    assert max(config.schedule.milestones) < config.train.epochs
    expected.model.backbone.frozen_stages, expected.optimizer.lr = 2, config.optimizer.lr
    assert (config.model, config.train_data, config.optimizer) == (
        expected.model, expected.train_data, expected.optimizer,
    )  # fmt: skip


def test_words_of_a_backbones_own_name_are_not_variations(registered):
    registered("vit_d8", "vit_d16", "net_3x")
    assert load_config("mask-rcnn_vit_d16_fpn_1x_coco").model.backbone.type == "vit_d16"
    assert load_config("mask-rcnn_vit_d16_fpn_3x_coco").train.epochs == 36
    backbone = load_config("deeplabv3_vit_d16_d16_80k_ade20k").model.backbone
    assert (backbone.type, backbone.output_stride) == ("vit_d16", 16)
    assert load_config("net_3x_imagenet").schedule == load_config("resnet50_imagenet").schedule


def test_a_backbones_name_may_have_a_dot_and_one_with_a_slash_is_named(registered):
    registered("resnet50.a1_in1k", "zoo/resnet50")
    config = load_config("retinanet_resnet50.a1_in1k_fpn_1x_coco")
    assert config.model.backbone.type == "resnet50.a1_in1k"
    assert Path(config.filename).stem == "retinanet_resnet50.a1_in1k_fpn_1x_coco"
    with pytest.raises(
        ConfigError, match='a config\'s name must not contain "/"; .* model.backbone.type="zoo/resnet50"'
    ):
        load_config("retinanet_zoo/resnet50_fpn_1x_coco")
    assert load_config("retinanet_r50_fpn_1x_coco", {"model.backbone.type": "zoo/resnet50"})
