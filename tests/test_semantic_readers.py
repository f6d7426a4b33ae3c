"""Readers of public semantic segmentation datasets, on files in the original layout, and their configs' pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.tv_tensors import Image as ImageTensor

from chordate.config import load_config
from chordate.data.coco_stuff import COCO_STUFF_CLASSES, COCO_STUFF_IDS
from chordate.data.fallback_meta import fallback_meta
from chordate.data.label_map import LabelMap
from chordate.data.loader import build_dataset
from chordate.data.transforms import ClassLimitedCrop
from chordate.errors import DataError
from chordate.registry import DATASETS
from chordate.structures import IGNORED

SIZE = (30, 40)


def put(path: Path, pixels: np.ndarray, palette: bool = False) -> np.ndarray:
    """Write an image file, and return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([value * 7 % 256 for value in range(768)])
    image.save(path)
    return pixels


def photo(path: Path) -> None:
    put(path, np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))


def values(choices: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(choices, np.uint8), SIZE)


def labels(dataset, index: int = 0) -> np.ndarray:
    return dataset.labels_of(index).numpy()


def mapped(pixels: np.ndarray, table: dict[int, int]) -> np.ndarray:
    return np.vectorize(lambda value: table.get(value, IGNORED))(pixels)


def ade20k(root: Path) -> np.ndarray:
    for split, name in (("training", "train"), ("validation", "val")):
        photo(root / f"images/{split}/ADE_{name}_00000001.jpg")
        pixels = put(root / f"annotations/{split}/ADE_{name}_00000001.png", values([0, 1, 2, 13, 150]))
    return pixels


def cityscapes(root: Path) -> np.ndarray:
    for split, city in (("train", "aachen"), ("val", "munster")):
        photo(root / f"leftImg8bit/{split}/{city}/{city}_000000_000019_leftImg8bit.png")
        stem = root / f"gtFine/{split}/{city}/{city}_000000_000019_gtFine"
        pixels = put(Path(f"{stem}_labelIds.png"), values([0, 1, 7, 11, 26, 29, 33]))
        put(Path(f"{stem}_instanceIds.png"), pixels.astype(np.uint16) * 1000)
        put(Path(f"{stem}_color.png"), np.zeros((*SIZE, 3), np.uint8))
        Path(f"{stem}_polygons.json").write_text("{}")
    return pixels


def coco_stuff(root: Path) -> np.ndarray:
    for split in ("train2017", "val2017"):
        photo(root / f"images/{split}/000000000009.jpg")
        pixels = put(root / f"annotations/{split}/000000000009.png", values([0, 12, 89, 91, 181, 255]))
    return pixels


def voc(root: Path) -> np.ndarray:
    """Write images 1 to 5, and VOC's labels of images 1 (train) and 2 (val). Returns the pixel values of the labels of
    image 2. The tests add SBD's labels, also for the validation image."""
    for name in ("1", "2", "3", "4", "5"):
        photo(root / f"VOC2012/JPEGImages/2007_00000{name}.jpg")
    lists = root / "VOC2012/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, names in (("train", "1"), ("val", "2"), ("trainval", "12")):
        (lists / f"{split}.txt").write_text("".join(f"2007_00000{name}\n" for name in names))
    for name in ("1", "2"):
        path = root / f"VOC2012/SegmentationClass/2007_00000{name}.png"
        pixels = put(path, values([0, 1, 15, 20, 255], int(name)), palette=True)
    return pixels


# For each config: the function that writes files, the label of each pixel value, and the first and last class.
READERS = {
    "ade20k": (ade20k, {1: 0, 2: 1, 13: 12, 150: 149}, ("wall", "flag")),
    "cityscapes_semantic": (cityscapes, {7: 0, 11: 2, 26: 13, 33: 18}, ("road", "bicycle")),
    "coco_stuff": (coco_stuff, {0: 0, 12: 11, 89: 79, 91: 80, 181: 170}, ("person", "wood")),
    "voc_semantic": (voc, {0: 0, 1: 1, 15: 15, 20: 20}, ("background", "tvmonitor")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_gives_the_classes_of_the_original_files(tmp_path, name):
    write, table, (first, last) = READERS[name]
    pixels = write(tmp_path)
    cfg = load_config(f"configs/_base_/datasets/{name}.py")
    dataset = build_dataset(cfg.val_data, data_root=tmp_path, training=False)
    assert (dataset.classes[0], dataset.classes[-1]) == (first, last) and len(dataset) == 1
    assert np.array_equal(labels(dataset), mapped(pixels, table))
    assert fallback_meta(cfg.fallback_meta).classes == dataset.classes
    if dataset.meta.palette is not None:
        assert len(dataset.meta.palette) == len(dataset.classes)


@pytest.mark.parametrize("name", READERS)
def test_the_pipeline_of_the_papers_gives_crops_with_exact_labels(tmp_path, name):
    write, table, _ = READERS[name]
    write(tmp_path)
    if name == "voc_semantic":  # its training set also has the images whose labels are only in SBD
        put(tmp_path / "VOC2012/SegmentationClassAug/2007_000003.png", values(list(table)))
    cfg = load_config(f"configs/_base_/datasets/{name}.py")
    dataset = build_dataset(cfg.train_data, data_root=tmp_path, training=True)
    for epoch in range(3):
        sample = dataset[epoch, 0]
        limit = (512, 1024) if name.startswith("city") else (512, 512)
        shape = sample["image"].shape[-2:]
        assert shape == sample["labels"].shape and all(side <= most for side, most in zip(shape, limit))
        found = set((sample["labels"].as_subclass(torch.Tensor) - 1).unique().tolist())
        assert found <= {IGNORED, *table.values()} and len(found) > 2


def test_coco_stuff_leaves_out_the_ids_that_coco_never_annotated():
    """Pixel values are COCO's category ids minus 1. These ids are 80 of 1 … 90, and all of 92 … 182."""
    assert len(COCO_STUFF_CLASSES) == len(set(COCO_STUFF_IDS)) == 171
    ids = dict(zip(COCO_STUFF_CLASSES, COCO_STUFF_IDS))
    coco = {"person": 1, "stop sign": 13, "bench": 15, "backpack": 27, "bed": 65, "toothbrush": 90, "banner": 92}
    assert {name: ids[name] + 1 for name in coco} == coco


# Columns name, id and trainId of cityscapesscripts/helpers/labels.py, for rows whose trainId is neither 255 nor -1.
CITYSCAPES_LABELS = """
road 7 0, sidewalk 8 1, building 11 2, wall 12 3, fence 13 4, pole 17 5, traffic light 19 6, traffic sign 20 7,
vegetation 21 8, terrain 22 9, sky 23 10, person 24 11, rider 25 12, car 26 13, truck 27 14, bus 28 15, train 31 16,
motorcycle 32 17, bicycle 33 18
"""


def test_cityscapes_train_ids_are_those_of_the_authors_table(tmp_path):
    """The first 34 columns of the label file have the ids 0 to 33, one id per column."""
    cityscapes(tmp_path)
    path = tmp_path / "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png"
    put(path, np.broadcast_to(np.arange(SIZE[1], dtype=np.uint8) % 34, SIZE).copy())
    dataset = DATASETS.build({"type": "CityscapesSemantic", "split": "val"}, data_root=tmp_path)
    rows = [row.strip().rsplit(" ", 2) for row in CITYSCAPES_LABELS.split(",")]
    expected = {int(number): (int(train_id), name) for name, number, train_id in rows}
    for number, label in enumerate(labels(dataset)[0, :34].tolist()):
        assert label == (expected[number][0] if number in expected else IGNORED)
        assert label == IGNORED or dataset.classes[label] == expected[number][1]


def voc_dataset(root: Path):
    return DATASETS.build({"type": "VocSemantic", "split": "train_aug"}, data_root=root)


def test_train_aug_from_pngs_is_all_that_is_labeled_but_not_in_validation(tmp_path):
    voc(tmp_path)
    for name in ("1", "2", "3", "4"):
        put(tmp_path / f"VOC2012/SegmentationClassAug/2007_00000{name}.png", values([0, 3], 9))
    dataset = voc_dataset(tmp_path)
    assert [image.stem[-1] for image, _ in dataset.pairs] == ["1", "3", "4"]
    assert np.array_equal(labels(dataset, 0), mapped(values([0, 1, 15, 20, 255], 1), {0: 0, 1: 1, 15: 15, 20: 20}))
    assert np.array_equal(labels(dataset, 2), values([0, 3], 9))


def test_train_aug_from_the_mat_files_of_sbd(tmp_path):
    """The .mat files have SBD's struct GTcls, with the fields Segmentation, Boundaries and CategoriesPresent."""
    io = pytest.importorskip("scipy.io")
    voc(tmp_path)
    folder = tmp_path / "benchmark_RELEASE/dataset/cls"
    folder.mkdir(parents=True)
    for name in ("2", "3", "4"):
        pixels = values([0, 3, 20], int(name))
        struct = {"Segmentation": pixels, "Boundaries": np.zeros(20), "CategoriesPresent": np.array([3, 20])}
        io.savemat(folder / f"2007_00000{name}.mat", {"GTcls": struct})
    dataset = voc_dataset(tmp_path)
    assert [image.stem[-1] for image, _ in dataset.pairs] == ["1", "3", "4"]
    assert np.array_equal(labels(dataset, 2), values([0, 3, 20], 4))
    assert dataset.read(1)["image"].shape == (3, *SIZE)
    (folder / "2007_000003.mat").write_bytes(b"no")
    with pytest.raises(DataError, match=r"2007_000003\.mat: not a label file of SBD"):
        voc_dataset(tmp_path)


def test_missing_parts_of_voc_are_one_line(tmp_path, monkeypatch):
    voc(tmp_path)
    with pytest.raises(DataError, match=r"benchmark_RELEASE.*no such folder.*label files of SBD, or PNGs in .*Aug"):
        voc_dataset(tmp_path)
    folder = tmp_path / "benchmark_RELEASE/dataset/cls"
    folder.mkdir(parents=True)
    (folder / "2007_000003.mat").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"2007_000003\.mat: reading SBD needs scipy; pip install scipy"):
        voc_dataset(tmp_path)


def largest_fraction(crop: dict) -> float:
    counts = torch.bincount(crop["labels"].as_subclass(torch.Tensor).flatten().int())[1:]
    return float(counts.max() / counts.sum())


def test_no_class_covers_more_of_a_crop_than_the_limit():
    """The left half is one class and the right half another, so most random crops exceed the limit. If ten tries do,
    the last crop is used, so a few crops still exceed it."""
    torch.manual_seed(0)
    labels = torch.ones(100, 100, dtype=torch.int16)
    labels[:, 50:] = 2
    labels[:20] = 0  # ignored pixels do not count
    sample = {"image": ImageTensor(torch.zeros(3, 100, 100, dtype=torch.uint8)), "labels": LabelMap(labels)}
    limited, at_random = ClassLimitedCrop(30, max_fraction=0.75), ClassLimitedCrop(30, max_fraction=1.0)
    crops = [[largest_fraction(crop(sample)) for _ in range(60)] for crop in (limited, at_random)]
    above = [sum(fraction > 0.75 for fraction in part) for part in crops]
    assert above[0] <= 3 < 20 < above[1]
    assert limited(sample)["labels"].shape == limited(sample)["image"].shape[-2:] == (30, 30)


def test_the_last_place_is_taken_if_no_crop_is_mixed_and_small_images_are_kept():
    sample = {"image": ImageTensor(torch.zeros(3, 20, 50)), "labels": LabelMap(torch.ones(20, 50, dtype=torch.int16))}
    cropped = ClassLimitedCrop((30, 40))(sample)
    assert cropped["image"].shape == (3, 20, 40) and cropped["labels"].shape == (20, 40)


def test_the_crop_is_the_same_place_of_image_and_labels():
    numbers = torch.arange(60 * 70, dtype=torch.int16).reshape(60, 70)
    sample = {"image": ImageTensor(numbers.expand(3, -1, -1).float()), "labels": LabelMap(numbers)}
    for _ in range(5):
        cropped = ClassLimitedCrop((11, 13))(sample)
        assert torch.equal(cropped["image"][0].short(), cropped["labels"].as_subclass(torch.Tensor))


def test_the_scale_of_the_papers_is_v2s_random_resize():
    """The shorter side is uniform in 512 × (0.5 … 2.0) px, for landscape and portrait images."""
    torch.manual_seed(0)
    resize = v2.RandomResize(256, 1025)
    for size in ((512, 768), (768, 512)):
        sides = [min(resize(ImageTensor(torch.zeros(1, *size))).shape[-2:]) for _ in range(40)]
        assert 256 <= min(sides) < 330 and 950 < max(sides) <= 1024
