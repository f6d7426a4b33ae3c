"""Classifier recipes have the papers' learning-rate schedules and settings, and train for a few steps."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from class_folders import write_folders
from resnet_rs_recipes import RECIPES as RESNET_RS

import chordate
from chordate.backbones.convnext import SIZES
from chordate.config import list_configs, load_config
from chordate.training.schedule import build_schedule

NAMES = [name for name in list_configs() if re.search(r"_(imagenet|cifar100?|finetune_folder)$", name)]
IMAGENET = [name for name in NAMES if name.endswith("_imagenet")]
CIFAR = [name for name in NAMES if name.split("_")[-1] in ("cifar10", "cifar100")]
DOCUMENT = Path(__file__).parents[1] / "docs/classification.md"
TRAIN_IMAGES = {"imagenet": 1_281_167, "cifar": 50_000}  # number of training images


def learning_rates(name: str, epochs: list[float]) -> list[float]:
    """The learning rates at `epochs` (fractions allowed), for the config's base batch size."""
    cfg = load_config(name)
    images = TRAIN_IMAGES["imagenet" if name.endswith("_imagenet") else "cifar"]
    steps = -(-images // cfg.optimizer.base_batch_size)
    total = cfg.train.epochs * steps if cfg.train.get("epochs") else cfg.train.iterations
    schedule = build_schedule(cfg.schedule, total, steps if cfg.train.get("epochs") else 1, steps)
    return [cfg.optimizer.lr * schedule.factor(round(epoch * steps)) for epoch in epochs]


RESNET = ([0, 29.99, 30, 59.99, 60, 89.99], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
RESNEXT = ([0, 30, 60, 89.99, 90, 99.99], [0.1, 0.01, 0.001, 0.001, 1e-4, 1e-4])
SENET = ([0, 30, 60, 89.99, 90, 99.99], [0.6, 0.06, 0.006, 0.006, 6e-4, 6e-4])
RS = ([0, 2.5, 5, 177.5, 350], [0, 0.8, 1.6, 0.8, 0])  # half a cosine period from epoch 5 to epoch 350
CONVNEXT = ([0, 10, 20, 160, 300], [0, 2e-3, 4e-3, 2.0005e-3, 1e-6])  # half a cosine period from epoch 20 to epoch 300
FINE = ([0, 15, 30], [5e-5, 2.55e-5, 1e-6])
WRN = ([0, 59.99, 60, 120, 160, 199.99], [0.1, 0.1, 0.02, 0.004, 8e-4, 8e-4])
DENSE = ([0, 149.99, 150, 225, 299.99], [0.1, 0.1, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("start", "epochs", "wanted", "length"),
    [
        ("resnet", *RESNET, 90),
        ("plain", *RESNET, 90),
        ("preact", *RESNET, 90),
        ("wide", *RESNET, 90),
        ("densenet", *RESNET, 90),
        ("resnext", *RESNEXT, 100),
        ("seres", *SENET, 100),
        ("resnetrs", *RS, 350),
        ("convnext", *CONVNEXT, 300),
    ],
)
def test_imagenet_recipes_have_the_papers_learning_rates_at_the_papers_epochs(start, epochs, wanted, length):
    chosen = [name for name in IMAGENET if name.startswith(start) and "_i384_" not in name]
    chosen = [name for name in chosen if start != "resnet" or not name.startswith("resnetrs")]
    assert chosen
    for name in chosen:
        assert learning_rates(name, epochs) == pytest.approx(wanted, rel=1e-3, abs=1e-12), name
        assert load_config(name).train.epochs == length


@pytest.mark.parametrize("name", [f"convnext_{size}_i384_imagenet" for size in SIZES])
def test_fine_tuning_at_384_px_has_convnexts_settings(name):
    """Liu et al. 2022, table 6: 30 epochs, batch size 512, weight decay 1e-8, layer decay 0.7, no warm-up or MixUp."""
    cfg = load_config(name)
    assert learning_rates(name, FINE[0]) == pytest.approx(FINE[1], rel=1e-3)
    optimizer = cfg.optimizer
    assert (optimizer.layer_decay, optimizer.layer_blocks, optimizer.weight_decay) == (0.7, 3, 1e-8)
    assert (cfg.train.epochs, optimizer.base_batch_size, list(cfg.model.mix), cfg.train.ema) == (30, 512, [], None)


@pytest.mark.parametrize(("size", "rate"), {"tiny": 0.1, "small": 0.4, "base": 0.8, "large": 0.95}.items())
def test_each_convnext_has_its_own_stochastic_depth_at_384_px(size, rate):
    """Liu et al. 2022, table 6 (ImageNet-1k) for base and large; tiny and small keep the rate of table 5."""
    backbone = load_config(f"convnext_{size}_i384_imagenet").model.backbone
    assert (backbone.type, backbone.drop_path) == (f"convnext_{size}", rate)


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_recipes_have_the_papers_learning_rates_at_the_papers_iterations(name):
    cfg = load_config(name)
    if name.startswith(("wrn", "densenet")):
        assert learning_rates(name, WRN[0] if name.startswith("wrn") else DENSE[0]) == pytest.approx(
            WRN[1] if name.startswith("wrn") else DENSE[1]
        )
        return
    assert cfg.train.iterations == 64_000
    schedule = build_schedule(cfg.schedule, 64_000, 1, 391)
    rates = [0.1 * schedule.factor(i) for i in (0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999)]
    start = [0.01, 0.01] if any(depth in name for depth in ("110_", "164_", "1001_", "1202_")) else [0.1, 0.1]
    assert rates == pytest.approx([*start, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


# Base batch size, weight decay, Nesterov momentum.
SETTINGS = {
    "resnet50_imagenet": (256, 1e-4, False),
    "preact_resnet152_imagenet": (256, 1e-4, False),
    "wide_resnet50_2_imagenet": (256, 1e-4, True),
    "resnext50_32x4d_imagenet": (256, 1e-4, True),
    "densenet121_imagenet": (256, 1e-4, True),
    "seresnet50_imagenet": (1024, 1e-4, False),
    "resnetrs50_i160_imagenet": (4096, 4e-5, False),
    "resnet20_cifar10": (128, 1e-4, False),
    "preact_resnet164_cifar10": (128, 1e-4, False),
    "wrn28_10_cifar10": (128, 5e-4, True),
    "densenet100_12_cifar10": (64, 1e-4, True),
}


@pytest.mark.parametrize(("name", "wanted"), SETTINGS.items())
def test_sgd_settings_are_the_papers(name, wanted):
    optimizer = load_config(name).optimizer
    assert (optimizer.base_batch_size, optimizer.weight_decay, optimizer.get("nesterov", False)) == wanted
    assert optimizer.type == "SGD" and optimizer.momentum == 0.9


def sides(pipeline: list[dict[str, Any]]) -> set[Any]:
    """The crop sizes of a pipeline in pixels."""
    return {transform["size"] for transform in pipeline if "Crop" in transform["type"]}


def test_resnet_rs_has_a_recipe_for_every_row_of_the_papers_table():
    rows = {(depth, row.image_size): row for depth, recipes in RESNET_RS.items() for row in recipes}
    names = {name for name in IMAGENET if name.startswith("resnetrs")}
    assert names == {f"resnetrs{depth}_i{size}_imagenet" for depth, size in rows} and len(rows) == 11
    for (depth, size), row in rows.items():
        cfg = load_config(f"resnetrs{depth}_i{size}_imagenet")
        model = cfg.model
        assert (model.backbone.type, model.backbone.drop_path, model.head.dropout, model.head.label_smoothing) == (
            f"resnetrs{depth}", row.drop_path, row.dropout, 0.1
        )  # fmt: skip
        assert sides(cfg.train_data.pipeline) == sides(cfg.val_data.pipeline) == {size}
        augment = cfg.train_data.pipeline[-1]
        assert (augment.type, augment.num_ops) == ("RandAugment", 2)
        assert augment.magnitude == min(
            30, 3 * row.randaugment
        )  # the maximum is 30 in torchvision and 10 in the authors' code
        assert cfg.train.ema == 0.9999


@pytest.mark.parametrize("size", SIZES)
def test_convnexts_regularization_is_that_of_table_5(size):
    cfg = load_config(f"convnext_{size}_imagenet")
    assert cfg.model.backbone.drop_path == SIZES[size]["recipe_drop_path"]
    assert [(mix.type, mix.alpha) for mix in cfg.model.mix] == [("MixUp", 0.8), ("CutMix", 1.0)]
    assert (cfg.model.head.label_smoothing, cfg.train.ema) == (0.1, 0.9999)
    assert (cfg.optimizer.type, cfg.optimizer.weight_decay, cfg.optimizer.base_batch_size) == ("AdamW", 0.05, 4096)
    transforms = {transform.type: transform for transform in cfg.train_data.pipeline}
    assert transforms["NoiseErasing"].p == 0.25
    assert (transforms["RandAugment"].num_ops, transforms["RandAugment"].magnitude) == (2, 3 * 9)


def test_resnets_scale_augmentation_is_that_of_section_3_4():
    shortest, crop, flip, lighting = load_config("resnet50_imagenet").train_data.pipeline
    assert (min(shortest.min_size), max(shortest.min_size), crop.size) == (256, 480, 224)
    assert (flip.type, lighting.type, lighting.std) == ("RandomHorizontalFlip", "Lighting", 0.1)


@pytest.mark.parametrize("name", [*IMAGENET, *CIFAR])
def test_a_recipe_is_named_after_its_backbone_and_its_data(name):
    """In `resnetrs50_i160_imagenet`: the backbone, the image size in pixels and the dataset."""
    cfg = load_config(name)
    backbone = cfg.model.backbone.type.removesuffix("_cifar")
    assert name.startswith(f"{backbone}_")
    data = {"ImageNet": "imagenet", "CIFAR10": "cifar10", "CIFAR100": "cifar100"}[cfg.train_data.dataset.type]
    assert name.endswith(f"_{data}") and cfg.train_data.dataset.type == cfg.val_data.dataset.type


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A data root with train/, val/ and test/, each with class folders of small images."""
    return write_folders(tmp_path_factory.mktemp("photos"), {"train": 4, "val": 1, "test": 1}, side=32, wider=0)


def train(name: str, photos: Path, out: Path, *, steps: int, side: int, cut: str | None = None) -> list[dict[str, Any]]:
    """Train a recipe for `steps` steps, evaluate it, and return the training records of the log.

    Image size and batch size are reduced, and no pretrained weights are loaded. With `cut`, the network is truncated
    after this feature map.
    """
    cfg = load_config(name)
    for data in (cfg.train_data, cfg.val_data):
        for transform in data.pipeline:
            if transform.type == "RandomShortestSize":
                transform.min_size = list(range(side, 2 * side))
            elif transform.type == "Resize":
                transform["size"] = [side, side]
            elif "Crop" in transform.type:
                transform["size"] = min(side, transform["size"])
        data.batch_size, data.workers = 6, 0
    cfg.train.update(epochs=None, iterations=steps, log_every=1, tensorboard=False, save_best=None)
    if cut:
        cfg.model.backbone.out = [cut]
    cfg.model.backbone.pretrained = None
    chordate.train(cfg, data_root=photos, work_dir=out)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    shutil.rmtree(out)  # saves disk space, since checkpoints are large
    assert any("top1" in line for line in lines)
    return [line for line in lines if line["mode"] == "train"]


# Recipes of every kind, and the last feature map of each network; later stages are not built.
KINDS = {
    "resnet18_imagenet": "c3",
    "preact_resnet50_imagenet": "c3",
    "resnext50_32x4d_imagenet": "c3",
    "seresnet50_imagenet": "c3",
    "densenet121_imagenet": "c3",
    "resnetrs50_i160_imagenet": "c3",
    "convnext_tiny_imagenet": "c3",
    "convnext_base_i384_imagenet": "c3",
    "resnet110_cifar10": "c2",
    "wrn16_4_cifar100": "c4",
    "densenet100_12_cifar10": "c2",
    "resnet50_finetune_folder": "c3",
    "convnext_tiny_finetune_folder": "c3",
}


# Recipes of the same kind as another one in KINDS, with a different network; they are trained only with `-m slow`.
ALIKE = {"preact_resnet50_imagenet", "resnext50_32x4d_imagenet", "seresnet50_imagenet", "densenet100_12_cifar10"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in KINDS])
def test_a_recipe_of_each_kind_trains(name, photos, tmp_path):
    records = train(name, photos, tmp_path, steps=2, side=32, cut=KINDS[name])
    assert len(records) == 2 and all(math.isfinite(line["loss"]) for line in records)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_takes_20_steps(name, photos, tmp_path):
    records = train(name, photos, tmp_path, steps=20, side=64)
    assert len(records) == 20 and all(math.isfinite(line["loss"]) for line in records)


def test_the_documents_test_time_augmentations_can_be_built(tmp_path):
    blocks = re.findall(r"```python\n# (\w+\.py).*?\n(.*?)```", DOCUMENT.read_text(), flags=re.S)
    assert len(blocks) == 2
    for name, text in blocks:
        (tmp_path / name).write_text(text)
        model = chordate.build_model(tmp_path / name, num_classes=3, pretrained=False)
        assert model.tta.__class__.__name__ in ("TenCrop", "MultiScale")


def test_the_document_names_every_family():
    text = DOCUMENT.read_text()
    for name in [*IMAGENET, *CIFAR]:
        family = re.match(r"[a-z]+", name)[0]
        assert f"`{family}" in text, name
