"""The statistics of `chordate check` match the annotations that the tests write: boxes, keypoints, pixels, segments."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from label_images import masks_of, write
from PIL import Image
from stick_figures import write_figures
from tiny_coco import annotation, write_coco

from chordate.data import CocoDataset, CocoPoseDataset, SemanticFolder
from chordate.data.coco_panoptic import CocoPanoptic
from chordate.data.data_report import DataReport, read_set
from chordate.data.dataset import Dataset
from chordate.structures import Counts, Values
from chordate.structures.statistics import format_number, format_percent

JOINTS = ("nose", "tail")


def report_of(dataset: Dataset) -> DataReport:
    report = DataReport("train_data", dataset=dataset)
    read_set(report, {"dataset": dataset, "workers": 0}, training=False)
    return report


def values(report: DataReport, title: str) -> list[float]:
    statistic = report.statistics()[title]
    assert isinstance(statistic, Values)
    return sorted(statistic.values.tolist())


def rows(report: DataReport, title: str) -> dict[str, tuple[int, ...]]:
    statistic = report.statistics()[title]
    assert isinstance(statistic, Counts)
    return dict(statistic.rows)


def test_box_sizes_and_aspect_ratios_are_those_of_the_single_instances(tmp_path: Path) -> None:
    boxes = [[10, 10, 40, 10], [10, 10, 8, 32], [5, 5, 9, 9]]
    crowd = annotation(9, 2, [0, 0, 50, 50], iscrowd=1)
    root = write_coco(tmp_path, [crowd, *(annotation(n, 1, box) for n, box in enumerate(boxes, start=1))])
    report = report_of(CocoDataset("annotations.json", "images", data_root=root))
    assert values(report, "box size") == pytest.approx([9, 16, 20])
    assert values(report, "box aspect ratio (width / height)") == pytest.approx([0.25, 1, 4])
    assert values(report, "instances per image") == [0, 3]
    assert report.images is not None and report.images.tolist() == [1, 0]  # cat in one image, dog in none
    assert report.most_frequent_sizes() == [((60, 80), 1), ((80, 60), 1)]


def test_keypoints_are_counted_by_joint_and_visibility(tmp_path: Path) -> None:
    points = [[5, 5, 2, 9, 9, 1], [5, 5, 2, 0, 0, 0]]
    records = [annotation(n, n, [2, 2, 20, 20], keypoints=p, num_keypoints=2) for n, p in enumerate(points, start=1)]
    categories = [{"id": 3, "name": "cat", "keypoints": JOINTS, "skeleton": []}]
    root = write_coco(tmp_path, records, categories=categories)
    report = report_of(CocoDataset("annotations.json", "images", keypoints=True, data_root=root))
    assert rows(report, "keypoints") == {"nose": (2, 0, 0), "tail": (0, 1, 1)}
    assert values(report, "labeled keypoints per object") == [1, 2]


def test_a_pose_dataset_counts_objects_per_image_and_reports_keypoints_far_from_their_box(tmp_path: Path) -> None:
    content = write_figures(tmp_path)
    content["annotations"][3]["keypoints"][:2] = [119, 89]  # a head in the corner of the image, far from its box
    (tmp_path / "figures.json").write_text(json.dumps(content))
    report = report_of(CocoPoseDataset("figures.json", "images", data_root=tmp_path))
    assert values(report, "objects per image") == [2] * 6
    assert len(report.sizes) == 6 and report.row()[1:4] == ["6", "0", "12"]
    assert rows(report, "keypoints") == dict.fromkeys(("head", "left_hand", "right_hand"), (12, 0, 0))
    assert report.suspicious == {"keypoints far outside the box": [3]}


def test_pixels_are_counted_by_class_and_by_value_and_ignored_ones_apart(tmp_path: Path) -> None:
    masks = [*masks_of([3, 9, 200]), np.full((12, 16), 200, np.uint8)]
    root = write(tmp_path, masks)
    settings: dict = {"ids": [3, 9], "ignored_ids": [200], "data_root": root}
    report = report_of(SemanticFolder("images", "labels", classes=["a", "b"], **settings))
    pixels = Counter(np.stack(masks).ravel().tolist())
    assert report.counts is not None and report.counts.tolist() == [pixels[3], pixels[9]]
    assert rows(report, "values in the label files") == {
        "3 (a)": (pixels[3],), "9 (b)": (pixels[9],), "200 (ignored)": (pixels[200],),
    }  # fmt: skip
    assert rows(report, "labeled pixels") == {"with a class": (pixels[3] + pixels[9],), "ignored": (pixels[200],)}
    assert values(report, "classes per image") == [0, 2, 2, 2]
    assert report.suspicious == {"no labeled pixels": [3]}
    (line,) = [line for line in report.lines() if line.startswith("pixels per class: ")]
    assert format_percent(pixels[3] / (pixels[3] + pixels[9])) in line


def test_colors_of_label_images_are_listed_with_their_classes(tmp_path: Path) -> None:
    colors = np.array([[255, 0, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    root = write(tmp_path, [Image.fromarray(colors[mask]) for mask in masks_of([0, 1, 2])])
    palette = [(255, 0, 0), (0, 0, 255)]
    report = report_of(SemanticFolder("images", "labels", classes=["a", "b"], palette=palette, data_root=root))
    names = set(rows(report, "values in the label files"))
    assert names == {"(255, 0, 0) (a)", "(0, 0, 255) (b)", "(9, 9, 9) (ignored)"}


def test_segments_are_counted_by_class_and_crowds_left_out(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[:8], ids[8:14, :10], ids[8:14, 10:20], ids[14:18, :20] = 1, 2, 3, 4  # sky, two dogs, a crowd of dogs
    for name in ("images", "segments"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images/1.jpg")
    Image.fromarray(np.stack((ids, 0 * ids, 0 * ids), axis=-1)).save(tmp_path / "segments/1.png")
    segments = [{"id": n, "category_id": 1 + (n > 1), "iscrowd": int(n == 4)} for n in (1, 2, 3, 4)]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 30}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "dog", "isthing": 1}],
    }
    (tmp_path / "p.json").write_text(json.dumps(content))
    report = report_of(CocoPanoptic("p.json", "images", "segments", data_root=tmp_path))
    assert report.dataset is not None and report.counts is not None
    assert dict(zip(report.dataset.classes, report.counts.tolist())) == {"dog": 2, "sky": 1}
    assert rows(report, "labeled pixels") == {
        "with a class": (int((ids > 0).sum()),),
        "ignored": (int((ids == 0).sum()),),
    }
    assert values(report, "things per image") == [2] and values(report, "classes per image") == [2]


def test_the_same_box_twice_is_suspicious_unless_its_class_differs(tmp_path: Path) -> None:
    box = [10, 10, 30, 30]
    pairs = [annotation(1, 1, box), annotation(2, 1, box), annotation(3, 2, box), annotation(4, 2, box, category=7)]
    root = write_coco(tmp_path, pairs)
    report = report_of(CocoDataset("annotations.json", "images", data_root=root))
    assert report.suspicious == {"the same box twice": [0]}


def test_numbers_have_three_digits() -> None:
    assert [format_number(x) for x in (0.01234, 1.234, 99.94, 1234.5)] == ["0.0123", "1.23", "99.9", "1,234"]
    assert [format_percent(x) for x in (1, 0.1234, 0.0512, 0.00012)] == ["100 %", "12.3 %", "5.12 %", "0.012 %"]
