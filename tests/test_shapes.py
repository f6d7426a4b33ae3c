"""The shapes dataset has valid COCO annotations, which cover only the visible regions, and disjoint splits."""

import hashlib
import json
from pathlib import Path

import cv2
import hotcoco
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from chordate.data.shapes import CLASSES, MIN_VISIBLE, generate_shapes, main, make_image
from chordate.data.shapes_colors import BACKGROUNDS
from chordate.errors import DataError

TRAIN, VAL = 160, 60


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, train=TRAIN, val=VAL, size=96, seed=3)
    return root


@pytest.fixture(scope="module")
def train(shapes: Path) -> COCO:
    return COCO(shapes / "annotations/train.json")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


def layouts(root: Path, split: str) -> set[tuple]:
    """For each image with objects, the sorted (category, box) of its annotations."""
    content = json.loads((root / f"annotations/{split}.json").read_text())
    by_image: dict[int, list] = {}
    for annotation in content["annotations"]:
        entry = (annotation["category_id"], *np.rint(annotation["bbox"]).astype(int).tolist())
        by_image.setdefault(annotation["image_id"], []).append(entry)
    return {tuple(sorted(layout)) for layout in by_image.values()}


def test_train_and_val_share_no_image_and_no_layout(shapes):
    pixels = {
        split: {hashlib.sha256(cv2.imread(str(p)).tobytes()).digest() for p in (shapes / split).glob("*.jpg")}
        for split in ("train", "val")
    }
    assert (len(pixels["train"]), len(pixels["val"])) == (TRAIN, VAL)
    assert not pixels["train"] & pixels["val"]
    assert len(layouts(shapes, "train")) > 0.9 * TRAIN
    assert not layouts(shapes, "train") & layouts(shapes, "val")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_images(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        generate_shapes(tmp_path / name, train=4, val=3, size=64, seed=seed)
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert len(first) == 3 * (4 + 3) + 2 * 2  # images with two PNGs each, and two JSON files per split
    assert first == again
    assert first.keys() == other.keys() and all(first[name] != other[name] for name in first)


def test_a_larger_dataset_begins_with_the_images_of_a_smaller_one(tmp_path, shapes):
    generate_shapes(tmp_path, train=5, val=9, size=96, seed=3)
    small, large = files(tmp_path), files(shapes)
    pictures = [name for name in small if name.endswith(".jpg")]
    assert len(pictures) == 14
    assert all(small[name] == large[name] for name in pictures)


def test_hotcocos_health_check_reports_no_problem_in_the_shapes_dataset(shapes):
    for split in ("train", "val"):
        health = hotcoco.COCO(str(shapes / f"annotations/{split}.json")).healthcheck()
        assert health["errors"] == [] and health["warnings"] == []


def test_ids_are_unique_and_every_image_exists_in_its_annotated_size(shapes, train):
    annotations, images = train.dataset["annotations"], train.dataset["images"]
    assert len({a["id"] for a in annotations}) == len(annotations)
    assert len({i["id"] for i in images}) == len(images) == TRAIN
    for image in images:
        picture = cv2.imread(str(shapes / "train" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)


def test_area_and_box_agree_with_the_mask_that_pycocotools_draws(train):
    all_margins = []
    for annotation in train.dataset["annotations"]:
        assert annotation["area"] == train.annToMask(annotation).sum() > 0
        x, y, w, h = rle.toBbox(train.annToRLE(annotation))
        left, top, width, height = annotation["bbox"]
        margins = np.array([x - left, y - top, left + width - x - w, top + height - y - h])
        if isinstance(annotation["segmentation"], dict):
            assert (margins == 0).all()
        else:  # a polygon's box contains its mask up to rounding; it is larger where thin tips fill no pixel
            assert margins.min() > -0.7 and margins.max() < 3, margins
        all_margins.append(margins)
    assert np.abs(np.mean(all_margins, 0)).max() < 0.5


def test_only_visible_parts_are_annotated(train):
    """Masks of one image are disjoint except for pixels on the outlines."""
    shared = total = 0
    for image_id in train.getImgIds():
        annotations = train.loadAnns(train.getAnnIds(image_id, iscrowd=False))
        if annotations:
            layers = np.sum([train.annToMask(a) for a in annotations], 0)
            shared, total = shared + (layers > 1).sum(), total + (layers > 0).sum()
    assert shared < 0.02 * total


@pytest.mark.parametrize("seed", range(40))
def test_no_mostly_hidden_shape_is_drawn(seed, monkeypatch):
    drawn = []
    monkeypatch.setattr("chordate.data.shapes.annotate", lambda s, *rest: drawn.append((s, rest[0].sum())) or {})
    make_image(np.random.default_rng(seed), 64)
    for shape, visible in drawn:
        assert visible / 16 >= MIN_VISIBLE * shape.full_area()


def test_the_shapes_dataset_has_crowds_empty_images_holes_and_occlusion(train):
    annotations = train.dataset["annotations"]
    assert {a["category_id"] for a in annotations} == set(range(1, len(CLASSES) + 1))
    crowds = [a for a in annotations if a["iscrowd"]]
    assert crowds and all(isinstance(a["segmentation"], dict) for a in crowds)
    assert 0 < TRAIN - len({a["image_id"] for a in annotations}) < 0.2 * TRAIN
    plain = [a for a in annotations if not a["iscrowd"]]
    assert any(isinstance(a["segmentation"], dict) for a in plain)  # a region with a hole
    assert any(isinstance(a["segmentation"], list) and len(a["segmentation"]) > 1 for a in plain)  # cut in two


def test_every_seed_makes_valid_annotations_at_the_smallest_size():
    for seed in range(150):
        picture, annotations = make_image(np.random.default_rng([9, seed]), 64)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        for annotation in annotations:
            assert annotation["area"] > 0 and min(annotation["bbox"][2:]) > 0


def test_the_shapes_command_writes_the_same_images(tmp_path, shapes):
    main([str(tmp_path), "--train", "2", "--val", "1", "--size", "96", "--seed", "3"])
    written, large = files(tmp_path), files(shapes)
    assert all(written[name] == large[name] for name in written if name.endswith(".jpg"))


def test_an_invalid_size_of_a_shapes_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="size=16"):
        generate_shapes(tmp_path, train=1, val=1, size=16)


def test_an_invalid_option_of_the_shapes_command_is_a_one_line_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--size", "16"])
    assert stopped.value.code == 2
    assert "size=16" in capsys.readouterr().err.splitlines()[-1]


def test_panoptic_annotations_agree_with_the_instances_and_the_semantic_labels(shapes):
    """Each shape's segment equals its mask except along the outline; all other pixels form one stuff segment. Crowds
    have the ignored label 255 in the label images."""
    panoptic = json.loads((shapes / "annotations/panoptic_train.json").read_text())
    names = {category["id"]: category["name"] for category in panoptic["categories"]}
    assert list(names.values()) == [*CLASSES, *BACKGROUNDS]
    assert [category["isthing"] for category in panoptic["categories"]] == [1] * len(CLASSES) + [0] * len(BACKGROUNDS)
    index, differing, seen = COCO(shapes / "annotations/train.json"), [], set()
    for record in panoptic["annotations"]:
        path = shapes / "annotations/panoptic_train" / record["file_name"]
        ids = cv2.imread(str(path))[..., ::-1].astype(int) @ [1, 256, 65536]
        labels = cv2.imread(str(shapes / "semantic/train" / record["file_name"]), cv2.IMREAD_UNCHANGED)
        segments = record["segments_info"]
        assert sorted(segment["id"] for segment in segments) == sorted(np.unique(ids))
        stuff = [segment for segment in segments if segment["category_id"] > len(CLASSES)]
        assert len(stuff) == 1
        seen.add(names[stuff[0]["category_id"]])
        for segment in segments:
            own = ids == segment["id"]
            assert segment["area"] == own.sum()
            assert (labels[own] == (255 if segment["iscrowd"] else segment["category_id"] - 1)).all()
        annotations = [a for a in index.loadAnns(index.getAnnIds(record["image_id"])) if not a["iscrowd"]]
        things = [s for s in segments if s["category_id"] <= len(CLASSES) and not s["iscrowd"]]
        assert sorted(a["category_id"] for a in annotations) == sorted(s["category_id"] for s in things)
        for annotation in annotations:
            mask = index.annToMask(annotation) > 0
            overlaps = [
                (mask & (ids == s["id"])).sum() / (mask | (ids == s["id"])).sum()
                for s in things
                if s["category_id"] == annotation["category_id"]
            ]
            differing.append(1 - max(overlaps))
    assert np.mean(differing) < 0.08 and seen == set(BACKGROUNDS)
