"""Datasets in Pascal VOC and YOLO format: boxes, labels, splits and error messages."""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from loading import open_loader

from chordate.data import CocoDataset, VocDataset, YoloDataset
from chordate.errors import DataError

HEIGHT, WIDTH = 60, 80


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


# Pascal VOC


def voc_object(name: str, corners: tuple[int, ...], difficult: int = 0) -> str:
    tags = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{tags}</bndbox></object>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2007"
    objects = {
        "000001": voc_object("dog", (1, 1, 80, 60)) + voc_object("cat", (11, 21, 30, 40), difficult=1),
        "000002": voc_object("bird", (5, 6, 7, 8)),
        "000003": "",
    }
    (root / "Annotations").mkdir(parents=True)
    for name, content in objects.items():
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{content}</annotation>\n"
        (root / "Annotations" / f"{name}.xml").write_text(text)
        picture(root / "JPEGImages" / f"{name}.jpg")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("000001\n000003\n")
    (lists / "val.txt").write_text("000002 1\n")
    return root


def test_voc_corners_are_one_based_and_inclusive(voc: Path) -> None:
    dataset = VocDataset(voc)
    assert dataset.classes == ("bird", "cat", "dog")
    first, second, third = (dataset[(0, index)] for index in range(3))
    assert first["boxes"].tolist() == [[0, 0, 80, 60], [10, 20, 30, 40]]
    assert first["labels"].tolist() == [2, 1]
    assert second["boxes"].tolist() == [[4, 5, 7, 8]]
    assert third["boxes"].shape == (0, 4)


def test_voc_difficult_objects_are_treated_like_crowds(voc: Path) -> None:
    assert VocDataset(voc)[(0, 0)]["crowd"].tolist() == [False, True]
    assert VocDataset(voc, ignore_difficult=False)[(0, 0)]["crowd"].tolist() == [False, False]


def test_voc_splits_share_their_classes(voc: Path) -> None:
    train, val = VocDataset(voc, "train"), VocDataset(voc, "val")
    assert (len(train), len(val)) == (2, 1)
    assert train.classes == val.classes == ("bird", "cat", "dog")
    assert val[(0, 0)]["labels"].tolist() == [0]


def test_a_real_voc_folder_has_the_boxes_of_its_conversion_to_coco(cells: Path) -> None:
    coco = CocoDataset("coco.json", "JPEGImages", data_root=cells, classes=["Platelets", "RBC", "WBC"])
    voc = VocDataset(cells)
    assert voc.classes == coco.classes and len(voc) == len(coco) == 6
    for index in range(6):
        ours, theirs = voc[(0, index)], coco[(0, index)]
        assert ours["info"].path == theirs["info"].path
        assert torch.equal(ours["image"], theirs["image"])
        assert ours["boxes"].tolist() == theirs["boxes"].tolist()
        assert ours["labels"].tolist() == theirs["labels"].tolist()
    assert [len(VocDataset(cells, split)) for split in ("train", "val")] == [4, 2]


def test_a_voc_folder_is_loaded_by_workers_from_a_config(voc: Path) -> None:
    dataset = {"type": "VocDataset", "folder": "VOC2007", "split": "train"}
    loader = open_loader(
        {"dataset": dataset, "batch_size": 2, "workers": 1}, data_root=voc.parent, training=True, seed=0
    )
    (batch,) = loader
    assert batch.targets.valid.sum() == 2


def test_broken_voc_folders_are_refused(voc: Path) -> None:
    with pytest.raises(DataError, match=r"trian\.txt: no such image list file; did you mean train\.txt"):
        VocDataset(voc, "trian")
    (voc / "ImageSets/Main/train.txt").write_text("000001\n000009\n")
    with pytest.raises(DataError, match='"000009" has no XML file'):
        VocDataset(voc, "train")
    file = voc / "Annotations/000001.xml"
    file.write_text(file.read_text()[:-80])
    with pytest.raises(DataError, match=r"000001\.xml: truncated"):
        VocDataset(voc)
    file.write_text("<annotation></annotation>")
    with pytest.raises(DataError, match=r"000001\.xml.*filename"):
        VocDataset(voc)
    with pytest.raises(DataError, match="no such folder of XML files; correct folder= or annotations="):
        VocDataset(voc / "JPEGImages")


# YOLO


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.png", "c.jpg"):
        picture(tmp_path / "images/train" / name)
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0.125 0.25 0.25 0.5\n")
    (tmp_path / "labels/train/b.txt").write_text("0 0.25 0.25 0.75 0.25 0.75 0.75\n")
    (tmp_path / "data.yaml").write_text("names:\n  0: dog\n  1: cat\n")
    return tmp_path


def open_yolo(root: Path, names="data.yaml", **settings) -> YoloDataset:
    return YoloDataset("images/train", "labels/train", names, data_root=root, **settings)


def test_yolo_boxes_are_fractions_of_the_image(yolo: Path) -> None:
    dataset = open_yolo(yolo)
    assert dataset.classes == ("dog", "cat")
    assert dataset[(0, 0)]["boxes"].tolist() == [[30, 15, 50, 45], [0, 0, 20, 30]]
    assert dataset[(0, 0)]["labels"].tolist() == [1, 0]
    assert dataset[(0, 2)]["boxes"].shape == (0, 4)  # this image has no label file
    assert len(open_yolo(yolo, filter_empty=True)) == 2


def test_yolo_polygons_are_loaded_as_masks(yolo: Path) -> None:
    (yolo / "labels/train/a.txt").unlink()
    sample = open_yolo(yolo, masks=True)[(0, 1)]
    assert sample["boxes"].tolist() == [[20, 15, 60, 45]]
    assert sample["masks"].float().mean() == pytest.approx(0.5, abs=0.01)


def test_yolo_boxes_are_relative_to_the_photo_rotated_by_its_exif_tag(yolo: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x112] = 6
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(yolo / "images/train/a.jpg", exif=exif)
    sample = open_yolo(yolo)[(0, 0)]
    assert sample["image"].shape == (3, WIDTH, HEIGHT)
    assert sample["boxes"].tolist()[1] == [0, 0, 15, 40]


@pytest.mark.parametrize("names", [["dog", "cat"], "list.yaml"])
def test_yolo_class_names_may_be_a_list(yolo: Path, names) -> None:
    (yolo / "list.yaml").write_text("nc: 2\nnames: [dog, cat]\n")
    assert open_yolo(yolo, names).classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of the 2 classes"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not"),
        ("0 0.5 0.5 0.1", "3 numbers after the class"),
        ("0 0.5 0.5 0.1 0.2 0.3 0.4 0.5", "7 numbers after the class"),
        ("dog 0.5 0.5 0.1 0.1", "could not convert"),
    ],
)
def test_the_error_for_an_invalid_yolo_label_line_has_its_line_number(yolo: Path, line: str, message: str) -> None:
    (yolo / "labels/train/b.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=rf"b\.txt:2: .*{message}"):
        open_yolo(yolo)


def test_broken_yolo_folders_are_refused(yolo: Path) -> None:
    with pytest.raises(DataError, match="no such class name file; did you mean data.yaml"):
        open_yolo(yolo, "dat.yaml")
    (yolo / "data.yaml").write_text("nc: 2\n")
    with pytest.raises(DataError, match='data.yaml: needs a list "names"'):
        open_yolo(yolo)
    with pytest.raises(DataError, match="no such label folder"):
        YoloDataset("images/train", "labels/val", ["dog"], data_root=yolo)
    (yolo / "images/train/a.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
        open_yolo(yolo, ["dog", "cat"])
