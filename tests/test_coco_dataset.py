"""CocoDataset reads the same annotations as pycocotools, and returns them in the models' format."""

import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from tiny_coco import annotation, write_coco
from torch import Tensor

from chordate.data import CocoDataset
from chordate.data.coco_classes import COCO_CLASSES
from chordate.errors import DataError


def open_set(root: Path, **settings) -> CocoDataset:
    return CocoDataset("annotations.json", "images", data_root=root, **settings)


@pytest.mark.parametrize("split", ["cells", "train2017", "val2017"])
def test_boxes_labels_and_crowds_are_those_of_the_annotation_file(request, split: str) -> None:
    if split == "cells":
        root, file, images = request.getfixturevalue("cells"), "coco.json", "JPEGImages"
    else:
        root, file, images = (
            request.getfixturevalue("real_data") / "coco-mini",
            f"annotations/instances_{split}.json",
            split,
        )
    dataset = CocoDataset(file, images, data_root=root)
    reference = COCO(str(root / file))
    assert dataset.classes == (("RBC", "WBC", "Platelets") if split == "cells" else COCO_CLASSES)
    assert dataset.category_ids == sorted(reference.cats)
    assert dataset.image_ids.tolist() == sorted(reference.imgs)
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        sample = dataset[(0, index)]
        record = reference.imgs[image_id]
        assert sample["image"].shape == (3, record["height"], record["width"])
        assert sample["info"].image_id == image_id
        want = [a for a in reference.loadAnns(reference.getAnnIds(image_id)) if min(a["bbox"][2:]) > 0]
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in want)])
        corners = corners.clip(0, [record["width"], record["height"]] * 2)
        np.testing.assert_allclose(sample["boxes"].numpy(), corners, atol=1e-4)
        assert [dataset.category_ids[label] for label in sample["labels"]] == [a["category_id"] for a in want]
        assert sample["crowd"].tolist() == [bool(a["iscrowd"]) for a in want]


def test_masks_are_the_annotated_ones_cropped_to_their_boxes(real_data: Path) -> None:
    file = "annotations/instances_val2017.json"
    dataset = CocoDataset(file, "val2017", data_root=real_data / "coco-mini", masks=True)
    reference = COCO(str(real_data / "coco-mini" / file))
    ious = []
    for index in range(0, len(dataset), 4):
        sample = dataset[(0, index)]
        found = reference.loadAnns(reference.getAnnIds(sample["info"].image_id))
        assert sample["masks"].shape == (len(found), 112, 112)
        for box, bitmap, crowd, truth in zip(sample["boxes"], sample["masks"], sample["crowd"], found):
            if crowd:
                assert bitmap.sum() == 0
            elif truth["area"] > 48**2:
                x1, y1, x2, y2 = box.tolist()
                xs = ((np.arange(112) + 0.5) / 112 * (x2 - x1) + x1).astype(int).clip(0, sample["info"].width - 1)
                ys = ((np.arange(112) + 0.5) / 112 * (y2 - y1) + y1).astype(int).clip(0, sample["info"].height - 1)
                want = torch.from_numpy(reference.annToMask(truth)[np.ix_(ys, xs)]).bool()
                ious.append(((want & bitmap.bool()).sum() / (want | bitmap.bool()).sum()).item())
    assert len(ious) > 40
    assert np.mean(ious) > 0.98


def test_all_encodings_of_a_mask_decode_to_the_same_mask(tmp_path: Path) -> None:
    """An L-shaped mask as a polygon, as compressed RLE and as uncompressed RLE."""
    outline = [10, 10, 40, 10, 40, 30, 20, 30, 20, 50, 10, 50]
    mask = np.zeros((60, 80), np.uint8, order="F")
    mask[10:30, 10:40] = 1
    mask[10:50, 10:20] = 1
    packed = rle.encode(mask)
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    ways = [[outline], {**packed, "counts": packed["counts"].decode()}, {"size": [60, 80], "counts": counts}]
    boxes = [annotation(n, 1, [10, 10, 30, 40], segmentation=way) for n, way in enumerate(ways)]
    masks = open_set(write_coco(tmp_path, boxes), masks=True)[(0, 0)]["masks"]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert masks[0].float().mean() == pytest.approx(mask.sum() / 1200, abs=0.01)


def test_a_hole_in_an_rle_mask_stays_a_hole(tmp_path: Path) -> None:
    mask = np.zeros((60, 80), np.uint8, order="F")
    mask[10:50, 10:50] = 1
    mask[20:40, 20:40] = 0
    packed = {**rle.encode(mask), "counts": rle.encode(mask)["counts"].decode()}
    sample = open_set(
        write_coco(tmp_path, [annotation(1, 1, [10, 10, 40, 40], segmentation=packed)]),
        masks=True,
        pipeline=[{"type": "RandomHorizontalFlip", "p": 1.0}],
    )[(0, 0)]
    assert sample["boxes"].tolist() == [[30, 10, 70, 50]]
    assert torch.equal(sample["masks"][0, 28:84, 28:84], torch.zeros(56, 56, dtype=torch.uint8))
    assert sample["masks"].float().mean() == pytest.approx(0.75)


def test_a_polygon_of_two_points_is_no_mask_and_no_crowd(tmp_path: Path) -> None:
    line = annotation(1, 1, [10, 10, 20, 20], segmentation=[[10, 10, 30, 30]])
    square = annotation(2, 1, [10, 10, 20, 20], segmentation=[[10, 10, 30, 10, 30, 30, 10, 30]])
    sample = open_set(write_coco(tmp_path, [line, square]), masks=True)[(0, 0)]
    assert sample["crowd"].tolist() == [False, False]
    assert sample["has_mask"].tolist() == [False, True]


def test_classes_are_ordered_by_id_or_as_chosen(tmp_path: Path) -> None:
    root = write_coco(tmp_path, [annotation(1, 1, [1, 1, 9, 9], 3), annotation(2, 1, [5, 5, 9, 9], 7)])
    assert open_set(root).classes == ("cat", "dog")
    assert open_set(root)[(0, 0)]["labels"].tolist() == [0, 1]
    turned = open_set(root, classes=["dog", "cat"])
    assert (turned.classes, turned.category_ids) == (("dog", "cat"), [7, 3])
    assert turned[(0, 0)]["labels"].tolist() == [1, 0]
    only = open_set(root, classes=["dog"])[(0, 0)]
    assert only["labels"].tolist() == [0]
    assert only["boxes"].tolist() == [[5, 5, 14, 14]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["dgo"], 'unknown class "dgo"; did you mean "dog"'), ([], "at least one"), (["cat", "cat"], "each once")],
)
def test_a_wrong_choice_of_classes_is_refused(tmp_path: Path, classes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_set(write_coco(tmp_path, [annotation(1, 1, [1, 1, 9, 9])]), classes=classes)


def test_images_without_instances_are_left_out_only_if_configured(tmp_path: Path) -> None:
    boxes = [
        annotation(1, 1, [1, 1, 9, 9], 3),
        annotation(2, 2, [1, 1, 9, 9], 3, iscrowd=1),
        annotation(3, 3, [1, 1, 9, 9], 7),
        annotation(4, 3, [1, 1, 9, 9], 3, iscrowd=1),
    ]
    root = write_coco(tmp_path, boxes, sizes=((60, 80),) * 4)
    assert open_set(root).image_ids.tolist() == [1, 2, 3, 4]
    assert open_set(root)[(0, 3)]["boxes"].shape == (0, 4)
    assert open_set(root, filter_empty=True).image_ids.tolist() == [1, 3]
    assert open_set(root, filter_empty=True, classes=["cat"]).image_ids.tolist() == [1]
    assert [images.tolist() for images in open_set(root).class_images()] == [[0, 1, 2], [2]]


def test_a_box_is_clipped_to_the_image_and_one_without_area_is_dropped(tmp_path: Path, caplog) -> None:
    boxes = [
        annotation(1, 1, [-5, 10, 20, 20]),
        annotation(2, 1, [70, 50, 30, 30]),
        annotation(3, 1, [90, 10, 5, 5]),
        annotation(4, 1, [10, 10, 0, 5]),
        annotation(5, 1, [10, 10, 4, 5]),
    ]
    root = write_coco(tmp_path, boxes)
    dataset = open_set(root)
    assert dataset.health_report == [
        f"{root}/annotations.json: 2 boxes with a side below 0.01 px in the image dropped (id 3, 4), "
        "2 boxes clipped to the image (id 1, 2)"
    ]
    sample = dataset[(0, 0)]
    assert sample["boxes"].tolist() == [[0, 10, 15, 30], [70, 50, 80, 60], [10, 10, 14, 15]]
    assert len(sample["labels"]) == len(sample["crowd"]) == 3


@pytest.mark.parametrize("id", [[1], None, "1", 9])
def test_a_thin_box_is_dropped_and_counted_once_with_any_id(tmp_path: Path, id: object) -> None:
    """Neither is it counted as an object without a mask."""
    square = annotation(2, 1, [10, 10, 20, 20], segmentation=[[10, 10, 30, 10, 30, 30, 10, 30]])
    thin = annotation(1, 1, [1, 1, 0.005, 5]) | {"id": id}
    outside = annotation(3, 1, [79.995, 1, 5, 5])
    dataset = open_set(write_coco(tmp_path, [square, thin, outside]), masks=True)
    report = " ".join(dataset.health_report)
    assert "2 boxes with a side below 0.01 px in the image dropped" in report and "no usable mask" not in report
    assert dataset[(0, 0)]["boxes"].tolist() == [[10, 10, 30, 30]]


def test_a_clean_file_logs_no_warning(cells: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        CocoDataset("coco.json", "JPEGImages", data_root=cells)
    assert not caplog.records


def test_forked_processes_read_the_shared_index(tmp_path: Path) -> None:
    dataset = open_set(write_coco(tmp_path, [annotation(1, 1, [1, 1, 9, 9])]))
    (tmp_path / "annotations.json").unlink()  # so opening the file again would fail
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(dataset[(0, 0)]["boxes"].tolist()))
    child.start()
    assert queue.get(timeout=30) == [[1, 1, 10, 10]]
    child.join()


def test_a_cropped_instance_keeps_its_own_mask(tmp_path: Path) -> None:
    """The crop contains only the right square: its mask fills its box, and its box is shifted by the crop."""
    left, right = [[0, 0, 20, 0, 20, 20, 0, 20]], [[60, 10, 80, 10, 80, 30, 60, 30]]
    boxes = [
        annotation(1, 1, [0, 0, 20, 20], 3, segmentation=left),
        annotation(2, 1, [60, 10, 20, 20], 7, segmentation=right),
    ]
    pipeline = [{"type": "Pad", "padding": [0, 0, 40, 0]}, {"type": "CenterCrop", "size": [60, 60]}]
    sample = open_set(write_coco(tmp_path, boxes), masks=True, pipeline=pipeline)[(0, 0)]
    assert sample["labels"].tolist() == [1]
    assert sample["boxes"].as_subclass(Tensor).tolist() == [[30, 10, 50, 30]]
    assert sample["masks"].float().mean() == 1.0
