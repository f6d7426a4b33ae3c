"""Cityscapes' panoptic annotations in the original layout: reader, string image ids, settings, predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cityscapes_files import CITIES, LABELS, SIZE, instance_ids, write_cityscapes

import chordate
from chordate.config import load_config, section
from chordate.data import CityscapesPanoptic
from chordate.data.cityscapes import CITYSCAPES_CLASSES, CITYSCAPES_IDS, CITYSCAPES_PALETTE
from chordate.data.fallback_meta import fallback_meta
from chordate.data.loader import build_dataset, build_loader
from chordate.errors import DataError
from chordate.evaluation import PanopticMetric
from chordate.structures import IGNORED, PanopticMap

NAME = "panoptic-deeplab_r52_cityscapes"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cityscapes")
    write_cityscapes(folder)
    return folder


def test_the_classes_are_cityscapes_things_and_stuff_with_the_original_ids(root: Path) -> None:
    dataset = CityscapesPanoptic("train", data_root=root)
    ordered = [row for row in LABELS if row[2]] + [row for row in LABELS if not row[2]]
    assert dataset.category_ids == [own for own, *_ in ordered]
    assert dataset.meta.classes == tuple(name for _, name, *_ in ordered)
    assert dataset.meta.stuff == tuple(name for _, name, thing, _ in ordered if not thing)
    assert dataset.meta.palette == tuple(color for *_, color in ordered)
    assert list(zip(CITYSCAPES_IDS, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE)) == [(i, n, c) for i, n, _, c in LABELS]
    meta = fallback_meta({"classes": "cityscapes_panoptic", "stuff": "cityscapes_panoptic"})
    assert (meta.classes, meta.stuff) == (dataset.meta.classes, dataset.meta.stuff)


def test_images_have_text_ids_and_the_segments_of_the_instance_ids(root: Path) -> None:
    dataset = CityscapesPanoptic("train", data_root=root)
    assert [dataset.id_in_file(number) for number in dataset.image_ids.tolist()] == CITIES["train"]
    label = {number: place for place, number in enumerate(dataset.category_ids)}
    for index, name in enumerate(CITIES["train"]):
        batch = dataset.original(index)
        (info,) = batch.infos
        assert dataset.id_in_file(info.image_id) == name
        photo = cv2.imread(str(root / f"leftImg8bit/train/{name.split('_')[0]}/{name}_leftImg8bit.png"))[..., ::-1]
        assert np.array_equal(batch.images[0].permute(1, 2, 0).numpy(), photo)
        ids = instance_ids(index)
        # The group of people (24) is a crowd with a class, and the ego vehicle (1) has no class.
        expected = {23: label[23], 7: label[7], 26000: label[26], 26001: label[26], 24: label[24], 1: IGNORED}
        assert np.array_equal(batch.targets.labels[0].numpy(), np.vectorize(expected.get)(ids))
        instances = batch.targets.instances
        assert instances.labels[0, instances.valid[0]].tolist() == [label[24], label[26], label[26]]
        assert instances.crowd[0, instances.valid[0]].tolist() == [True, False, False]
        numbers, labels, crowd = dataset.segments_of(info.image_id)
        assert [dataset.category_ids[own] for own in labels.tolist()] == [7, 23, 24, 26, 26]
        assert crowd.tolist() == [False, False, True, False, False] and (numbers[30:] == 0).all()


def truth_map(dataset: CityscapesPanoptic, image_id: int) -> PanopticMap:
    """A prediction equal to the ground truth."""
    numbers, labels, _ = dataset.segments_of(image_id)
    things = torch.from_numpy(dataset.is_thing)[labels]
    return PanopticMap(numbers.int(), labels, things, torch.ones(len(labels)), numbers.flatten().bincount()[1:])


def test_saved_predictions_have_the_text_ids_of_the_images(root: Path, tmp_path: Path) -> None:
    dataset = CityscapesPanoptic("train", data_root=root)
    metric = PanopticMetric(dataset=dataset)
    data = {"dataset": dataset, "workers": 0}
    for batch in build_loader(dataset, data, training=False):
        metric.update([truth_map(dataset, info.image_id) for info in batch.infos], batch)
    assert metric.compute()["PQ"] == 1
    metric.save_predictions(tmp_path / "found.json")
    written = json.loads((tmp_path / "found.json").read_text())["annotations"]
    assert [record["image_id"] for record in written] == CITIES["train"]  # text, as in the annotations
    assert all((tmp_path / "found" / record["file_name"]).is_file() for record in written)
    assert {segment["category_id"] for segment in written[0]["segments_info"]} == {7, 23, 24, 26}


@pytest.mark.parametrize("missing", ["gtFine/cityscapes_panoptic_val.json", "gtFine/cityscapes_panoptic_val"])
def test_missing_panoptic_files_name_the_tool_that_makes_them(root: Path, tmp_path: Path, missing: str) -> None:
    copy = tmp_path / "city"
    shutil.copytree(root, copy)
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = f"{path}: no such .*python -m cityscapesscripts.preparation.createPanopticImgs --dataset-folder"
    with pytest.raises(DataError, match=message) as caught:
        CityscapesPanoptic("val", data_root=copy)
    assert "\n" not in str(caught.value)


def test_the_config_has_the_settings_of_detectron2s_project(root: Path) -> None:
    """Detectron2's panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv.yaml, and its base file."""
    config = load_config(NAME)
    resize, crop, _ = config.train_data.pipeline
    assert (min(resize.size), max(resize.size), len(resize.size), resize.max_size) == (512, 2048, 16, 4096)
    assert tuple(crop.size) == (512, 1024) and config.train_data.batch_size * 8 == 32
    assert (config.optimizer.type, config.optimizer.lr, config.optimizer.base_batch_size) == ("Adam", 1e-3, 32)
    assert "weight_decay" not in config.optimizer
    assert (config.schedule.type, config.schedule.power, config.schedule.warmup_iters) == ("poly", 0.9, 1000)
    assert config.train.iterations == 90_000
    with torch.device("meta"):
        model = chordate.build_model(NAME, pretrained=False)
    assert model.classes[:2] == ("person", "rider") and len(model.classes) == 19
    assert model.backbone.name == "ResNet-50S"
    dilations = [block.conv2.dilation[0] for block in model.backbone.layer4]
    assert dilations == [2, 4, 8] and model.backbone.out_features["c5"].stride == 16
    settings = {
        "center_threshold": 0.1, "nms_kernel": 7, "topk": 200, "stuff_area": 2048, "small_instance_area": 4096,
        "small_instance_weight": 3,
    }  # fmt: skip
    assert {name: getattr(model, name) for name in settings} == settings
    center = model.center
    assert (center.sigma, center.center_loss_weight, center.offset_loss_weight) == (10, 200, 0.01)
    assert model.semantic.losses[0].hard_fraction == 0.2
    for head, channels in ((model.semantic, 256), (center, 128)):
        assert head.decoder.out_channels == channels
        assert [layer[0].out_channels for layer in head.decoder.reduce] == [64, 32]


def test_the_packaged_pipeline_reads_the_original_files(root: Path) -> None:
    config = load_config(NAME)
    dataset = build_dataset(section(config, "train_data"), data_root=root, training=True)
    sample = dataset[0, 0]
    assert sample["image"].shape == (3, 512, 1024) == (3, *sample["semantic"].shape)
    validation = build_dataset(section(config, "val_data"), data_root=root, training=False, meta=dataset.meta)
    assert validation[0, 0]["image"].shape == (3, *SIZE)


@pytest.mark.parametrize("backbone", ["r50", "convnext_tiny", "r18"])
def test_panoptic_deeplab_composes_with_other_backbones(backbone: str) -> None:
    with torch.device("meta"):
        model = chordate.build_model(f"panoptic-deeplab_{backbone}_cityscapes", pretrained=False)
    assert list(model.backbone.out_features) == ["c2", "c3", "c5"]
