"""Composed config names: any backbone in any packaged config, with the papers' recipes; errors name the wrong part."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import chordate
from chordate.config import find_config, list_configs, load_config, packaged_configs
from chordate.config_names import package_root
from chordate.config_templates import ALIASES, read_templates
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
    "deeplabv2_r50_d8_20k_voc-aug": ("deeplabv2_r101_d8_20k_voc-aug", "resnet50"),
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
    """A function that registers a backbone under any names; they are removed after the test."""
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


def test_an_own_backbone_of_a_published_family_follows_the_recipe_of_its_row(registered):
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
    """The default work dir is `work_dirs/` and the stem of the config's file name."""
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


@pytest.mark.parametrize("name", ["_" * 1000, "a" * 3000, f"{'a' * 300}/x.py"], ids=["words", "word", "path"])
def test_a_very_long_name_is_unknown(name):
    with pytest.raises(ConfigError, match="unknown config|no such config file") as error:
        load_config(name)
    assert len(str(error.value)) < 400


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
        recipe = load_config(row.recipe)
        assert (config.optimizer, config.schedule, config.train) == (recipe.optimizer, recipe.schedule, recipe.train)
        assert config.train_data.pipeline == recipe.train_data.pipeline
        assert config.val_data.pipeline == recipe.val_data.pipeline
    size = re.search(r"_i(\d+)_", name)
    if size:  # the size of the last crop or resize of both pipelines
        sides = [[t["size"] for t in data.pipeline if "size" in t][-1] for data in (config.train_data, config.val_data)]
        assert {side if isinstance(side, int) else max(side) for side in sides} == {int(size[1])}


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
    ("name", "weights"),
    [("deeplabv3_r50_d8_torchvision", "DeepLabV3_ResNet50"), ("fcn_r50_d8_torchvision", "FCN_ResNet50")],
)
def test_torchvisions_miou_is_that_of_its_weights(name, weights):
    measured = getattr(torchvision.models.segmentation, f"{weights}_Weights").DEFAULT.meta["_metrics"]
    assert PUBLISHED[name].figure == f"{measured['COCO-val2017-VOC-labels']['miou']:.1f} mIoU"


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


@pytest.mark.parametrize("name", ["resnet20_cifar10b", "plain56_cifar101", "resnet20_cifar100_3x"])
def test_every_suggestion_for_a_misspelled_cifar_name_is_a_config(name):
    with pytest.raises(ConfigError) as error:
        load_config(name)
    suggestions = re.findall('"([^"]+)"', str(error.value).partition("did you mean")[2])
    assert suggestions and all(load_config(suggestion) for suggestion in suggestions)


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
        ("wide_resnet101_2", 'the name is incomplete; did you mean "wide_resnet101_2_imagenet"'),
        ("wrn28_10_cifar", 'the name is incomplete; did you mean "wrn28_10_cifar10"'),
        ("densenet100_12", '"densenet100_12" is for CIFAR; did you mean "densenet100_12_cifar10"'),
        ("wrn28_10_imagenet", '"wrn28_10" is for CIFAR; did you mean "wrn28_10_cifar10"'),
        ("faster-rcnn_wrn28_10_fpn_1x_coco", '"wrn28_10" is for CIFAR; did you mean "wrn28_10_cifar10"'),
        (
            "resnet50_i384_imagenet",
            'only convnext has "i384_imagenet"; did you mean "resnet50_imagenet" or "convnext_base_i384_imagenet"',
        ),
        ("resnet50_i224_imagenet", 'only resnetrs has "i224_imagenet"; did you mean "resnet50_imagenet"'),
        (
            "resnet20_dropout_cifar10",
            'only wrn has "dropout_cifar10"; did you mean "resnet20_cifar10" or "wrn28_10_dropout_cifar10"',
        ),
        ("resnet20_dropout_cifar100", 'only wrn has "dropout_cifar100"; did you mean "resnet20_cifar100"'),
        ("yolov8n", "`chordate list models` lists all models"),
        ("detr_r50_coco", "`chordate list models PATTERN` the models that match$"),
        ("fcos_r50_fpn_1x_coco", 'unknown family "fcos"; see `chordate list models r50_fpn_1x_coco`$'),
        ("mask-rcnn_banana_fpn_1x_coco", 'unknown backbone "banana"; `chordate list backbones` lists all backbones$'),
        ("unet", 'did you mean "unet_r18_camvid"'),
        ("deeplabv2", 'did you mean "deeplabv2_r101_d8_20k_voc-aug"'),
    ],
)
def test_an_invalid_name_is_an_error_that_names_the_unknown_part(name, message):
    with pytest.raises(ConfigError, match=f'^unknown config "{name}".*{message}'):
        load_config(name)


@pytest.mark.parametrize("route", ["base", "option"])
def test_a_users_backbone_composes_once_its_module_is_imported(route, tmp_path, monkeypatch):
    module = f"my_backbones_of_{route}"  # no other test imports this module
    (tmp_path / f"{module}.py").write_text(
        "from chordate import BACKBONES\n"
        f"BACKBONES.register_variants({{'{route}_net': {{'type': 'ResNet', 'depth': 50, 'base_channels': 16}}}})\n"
    )
    name, imports = f"mask-rcnn_{route}_net_fpn_1x_coco", {"imports": [module]}
    (tmp_path / "mine.py").write_text(f'custom_imports = {imports}\nbase = "{name}"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert module not in sys.modules
    try:
        config = load_config("mine.py") if route == "base" else load_config(name, {"custom_imports": imports})
        assert config.model.backbone.type == f"{route}_net"
    finally:
        BACKBONES.variants.pop(f"{route}_net", None)


def test_listed_names_are_packaged_or_published():
    assert set(list_configs()) == {*packaged_configs(), *PUBLISHED}
    assert list_configs("mask-rcnn_r101*") == ["mask-rcnn_r101_fpn_3x_coco"]


@pytest.mark.parametrize("key", ["base", "_base_"])
@pytest.mark.parametrize("suffix", ["py", "json"])
def test_a_base_is_a_composed_name_wherever_the_config_is_addressed_from(key, suffix, tmp_path, monkeypatch):
    name = "mask-rcnn_convnext_tiny_fpn_1x_coco"
    file = tmp_path / "folder" / f"mine.{suffix}"
    file.parent.mkdir()
    file.write_text(f'{key} = "{name}"\n' if suffix == "py" else json.dumps({key: name}))
    found = {}
    for cwd, address in {file.parent: file.name, tmp_path: f"folder/{file.name}", Path.cwd(): file}.items():
        monkeypatch.chdir(cwd)
        found[cwd] = load_config(address).model.backbone.type
    assert set(found.values()) == {"convnext_tiny"} and len(found) == 3


def test_a_file_of_a_composed_name_may_inherit_from_the_name(tmp_path, monkeypatch):
    """A config name without a suffix means the packaged or composed config, even if a file or folder beside the config,
    or in the current folder, has this name."""
    name = "mask-rcnn_convnext_tiny_fpn_1x_coco"
    monkeypatch.chdir(tmp_path)
    for key in ("base", "_base_"):
        Path(f"{name}.py").write_text(f'{key} = "{name}"\ntrain = dict(seed=5)\n')
        Path(name).mkdir(exist_ok=True)
        assert load_config(name).train.get("seed", 0) == 0
        for address in (f"{name}.py", f"./{name}.py", tmp_path / f"{name}.py"):
            config = load_config(address)
            assert (config.model.backbone.type, config.train.seed) == ("convnext_tiny", 5)


@pytest.mark.parametrize(
    "text",
    [
        '_base_ = "imports.py"\nbase = "{}"\n',
        '_base_ = ["imports.py", "{}"]\n',
        '_base_ = "{}"\ncustom_imports = dict(imports=["MODULE"])\n',
        '{{"_base_": "{}", "custom_imports": {{"imports": ["MODULE"]}}}}',
    ],
    ids=["base", "_base_", "same_file", "same_json"],
)
def test_custom_imports_come_before_a_name_that_needs_them(text, tmp_path):
    module = tmp_path.name.replace("-", "_")
    (tmp_path / f"{module}.py").write_text(
        "from chordate import BACKBONES\n"
        f"BACKBONES.register_variants({{'{module}_net': {{'type': 'ResNet', 'depth': 50}}}})\n"
    )
    (tmp_path / "imports.py").write_text(f'custom_imports = dict(imports=["{module}"])\n')
    file = tmp_path / ("mine.json" if text.startswith("{{") else "mine.py")
    file.write_text(text.format(f"retinanet_{module}_net_fpn_1x_coco").replace("MODULE", module))
    try:
        assert load_config(file).model.backbone.type == f"{module}_net"
    finally:
        del BACKBONES.variants[f"{module}_net"]


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


@pytest.mark.parametrize("key", ["base", "_base_"])
def test_an_error_in_custom_imports_names_the_file_once(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f'{key} = "retinanet_r50_fpn_1x_coco"\ncustom_imports = dict(imports=["no_such"])\n')
    with pytest.raises(ConfigError, match="^mine.py: custom_imports: no_such: ModuleNotFoundError") as error:
        load_config("mine.py")
    assert str(error.value).count("mine.py") == 1
