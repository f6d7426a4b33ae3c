"""`chordate check DATA` infers the dataset format from the files; the datasets have the objects that tests write."""

import json
import os
import random
import shutil
import signal
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from annotation_mutants import Folder, naive_voc, naive_yolo, voc_folder, yolo_folder
from cityscapes_files import write_cityscapes
from label_images import masks_of, write
from PIL import Image
from test_semantic_readers import READERS, labels, mapped
from tiny_coco import annotation, write_coco

from chordate.cli.check import open_set, section_of
from chordate.cli.main import main
from chordate.data.coco_geometry import MIN_SIDE
from chordate.data.recognition import Recognition, is_training, recognize
from chordate.data.recognize_folders import RECOGNIZERS
from chordate.errors import DataError

BOX = [10, 10, 30, 30]


def found(path: Path) -> Recognition:
    return recognize(path, RECOGNIZERS)


def objects(recognition: Recognition) -> dict[str, Counter[str]]:
    """The number of objects per class in the samples of each set."""
    counts = {}
    for part in recognition.sets:
        report = open_set(part.name, section_of(part.settings), data_root=recognition.root, training=False)
        assert not report.problems and report.dataset is not None
        samples = [report.dataset.read(index) for index in range(len(report.dataset))]
        labels = [label for sample in samples for label in np.atleast_1d(sample.get("labels", sample.get("label")))]
        counts[part.name] = Counter(report.dataset.classes[int(label)] for label in labels)
    return counts


def write_folder(folder: Folder, root: Path) -> Path:
    for path, content in folder.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def with_objects(make, naive) -> tuple[Folder, Counter[str]]:
    """The first generated folder with more than three objects, and the number of its objects per class."""
    folders = (make(random.Random(seed)) for seed in range(50))
    counted = ((folder, Counter(o[0] for rows in naive(folder, MIN_SIDE).values() for o in rows)) for folder in folders)
    return next((folder, counts) for folder, counts in counted if counts.total() > 3)


@pytest.mark.parametrize("images", ["train", "images/train", "photos"])
@pytest.mark.parametrize(
    "annotations", ["train.json", "annotations/instances_train.json", "train/_annotations.coco.json"]
)
def test_coco_files_are_found_with_their_images(tmp_path: Path, images: str, annotations: str) -> None:
    made = write_coco(tmp_path / "made", [annotation(1, 1, BOX), annotation(2, 2, BOX, category=7)])
    for source, target in (("images", images), ("annotations.json", annotations)):
        (tmp_path / "data" / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made / source, tmp_path / "data" / target, dirs_exist_ok=True) if source == "images" else (
            shutil.copy(made / source, tmp_path / "data" / target)
        )
    recognition = found(tmp_path / "data")
    assert list(objects(recognition).values()) == [Counter(cat=1, dog=1)]
    assert recognition.sets[0].settings["type"] == "CocoDataset" and not recognition.sets[0].optional
    assert found(tmp_path / "data" / annotations).sets[0].settings["annotations"] == Path(annotations).name


def test_masks_and_keypoints_of_coco_files_are_seen(tmp_path: Path) -> None:
    square = [[10, 10, 40, 10, 40, 40, 10, 40]]
    categories = [{"id": 3, "name": "cat", "keypoints": ["nose"], "skeleton": []}]
    record = annotation(1, 1, BOX, segmentation=square, keypoints=[12, 12, 2], num_keypoints=1)
    write_coco(tmp_path, [record], categories=categories)
    assert found(tmp_path).sets[0].optional == {"masks": True, "keypoints": True}


def test_a_voc_folder(tmp_path: Path) -> None:
    folder, counts = with_objects(voc_folder, naive_voc)
    root = write_folder(folder, tmp_path / "VOCdevkit" / "VOC2007")
    assert objects(found(root)) == {"all images": counts}
    assert objects(found(tmp_path / "VOCdevkit")) == {"VOC2007": counts}
    (root / "ImageSets/Main").mkdir(parents=True)
    for name, stems in {"train": "0\n1\n", "val": "2\n", "cat_train": "0 1\n"}.items():
        (root / f"ImageSets/Main/{name}.txt").write_text(stems)
    split = objects(found(root))
    assert list(split) == ["train", "val"] and split["train"] + split["val"] == counts


def test_xml_files_beside_the_images(tmp_path: Path) -> None:
    folder, counts = with_objects(voc_folder, naive_voc)
    for split in ("valid", "train"):
        write_folder({f"{split}/{Path(path).name}": content for path, content in folder.items()}, tmp_path)
    assert objects(found(tmp_path)) == {"train": counts, "valid": counts}


@pytest.mark.parametrize("names", ["data.yaml", "nowhere", "classes.txt"])
def test_a_yolo_folder_with_and_without_class_names(tmp_path: Path, names: str) -> None:
    folder, counts = with_objects(yolo_folder, naive_yolo)
    content = folder.pop("data.yaml")
    if names != "nowhere":
        folder[names] = content if names == "data.yaml" else b"cat\ndog\nhot dog\n"
    write_folder(folder, tmp_path)
    order = {"cat": "class 0", "dog": "class 1", "hot dog": "class 2"}
    if names == "nowhere":
        counts = Counter({order[name]: count for name, count in counts.items()})
    assert objects(found(tmp_path)) == {"all images": counts}
    assert ("numbered" in found(tmp_path).kind) == (names == "nowhere")


def test_a_yolo_data_yaml_and_folders_of_splits(tmp_path: Path) -> None:
    folder, counts = with_objects(yolo_folder, naive_yolo)
    content = folder.pop("data.yaml")
    for split in ("train", "val"):
        write_folder({path.replace("/", f"/{split}/"): data for path, data in folder.items()}, tmp_path)
    (tmp_path / "data.yaml").write_bytes(content)
    assert objects(found(tmp_path)) == {"images/train": counts, "images/val": counts}
    (tmp_path / "data.yaml").write_bytes(content + b"path: .\ntrain: images/train\nval: images/val\n")
    assert objects(found(tmp_path)) == objects(found(tmp_path / "data.yaml")) == {"train": counts, "val": counts}


@pytest.mark.parametrize(
    ("images", "labels", "suffix"),
    [("images", "labels", ".png"), ("train", "trainannot", ".png"), ("train/img", "train/masks", "_mask.png")],
)
def test_label_images_are_paired_with_images_and_their_values_are_the_classes(
    tmp_path: Path, images: str, labels: str, suffix: str
) -> None:
    made = write(tmp_path, masks_of([2, 5, 255]))
    for source, target in (("images", images), ("labels", labels)):
        (tmp_path / "data" / target).mkdir(parents=True)
        for file in (made / source).iterdir():
            ending = suffix if source == "labels" else file.suffix
            shutil.copy(file, tmp_path / "data" / target / f"{file.stem}{ending}")
    (part,) = found(tmp_path / "data").sets
    assert part.settings["images"] == images and part.settings["labels"] == labels
    assert part.settings["classes"] == ["value 2", "value 5"] and part.settings["ignored_ids"] == [255]
    report = open_set("all", section_of(part.settings), data_root=tmp_path / "data", training=True)
    assert report.dataset is not None and len(report.dataset) == 3 and not report.problems


def test_binary_masks_and_colors_of_label_images(tmp_path: Path) -> None:
    colors = np.array([[255, 0, 0], [0, 0, 9]], np.uint8)
    for name, masks in {
        "two": masks_of([0, 255]),
        "rgb": [Image.fromarray(colors[m]) for m in masks_of([0, 1])],
    }.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name, masks)
    (two,), (rgb,) = found(tmp_path / "two").sets, found(tmp_path / "rgb").sets
    assert two.settings["ids"] == [0, 255] and two.settings["ignored_ids"] == []
    assert sorted(rgb.settings["palette"]) == [(0, 0, 9), (255, 0, 0)] and "ids" not in rgb.settings


def write_classes(root: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        for number, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for index in range(number + 2):
                Image.new("RGB", (8, 6), (90 * number, 9, 9)).save(root / split / name / f"{index}.png")


def test_class_folders_on_disk_and_in_a_zip(tmp_path: Path) -> None:
    write_classes(tmp_path / "plain", (".",))
    write_classes(tmp_path / "split", ("train", "test"))
    counts = Counter(ant=2, bee=3)
    assert objects(found(tmp_path / "plain")) == {"all images": counts}
    assert objects(found(tmp_path / "split")) == {"train": counts, "test": counts}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in (tmp_path / "split").rglob("*.png"):
            archive.write(file, Path("photos") / file.relative_to(tmp_path / "split"))
    assert objects(found(tmp_path / "a.zip")) == {"train": counts, "test": counts}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("nested", [False, True])
def test_published_semantic_datasets_are_recognized_with_their_own_classes(tmp_path: Path, name, nested) -> None:
    write, table, ends = READERS[name]
    pixels = write(tmp_path / "data" if nested else tmp_path)
    recognition = found(tmp_path)
    parts = {part.name.split()[-1]: part for part in recognition.sets}
    assert len(recognition.sets) == (3 if name == "voc_semantic" else 2)
    (last,) = (part for split, part in parts.items() if split.startswith("val"))
    report = open_set(last.name, section_of(last.settings), data_root=recognition.root, training=False)
    assert not report.problems and report.dataset is not None
    assert (report.dataset.classes[0], report.dataset.classes[-1]) == ends
    assert np.array_equal(labels(report.dataset), mapped(pixels, table))


def test_cityscapes_panoptic_annotations_have_cityscapes_classes(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    recognition = found(tmp_path)
    assert [(part.name, part.settings["type"]) for part in recognition.sets] == [
        ("panoptic train", "CityscapesPanoptic"),
        ("panoptic val", "CityscapesPanoptic"),
    ]
    report = open_set("train", section_of(recognition.sets[0].settings), data_root=tmp_path, training=True)
    assert not report.problems and len(report.dataset.classes) == 19


def test_panoptic_annotations(real_data: Path) -> None:
    recognition = found(real_data / "panoptic-mini")
    (part,) = recognition.sets
    assert part.settings == {
        "type": "CocoPanoptic", "annotations": "panoptic.json", "images": "images", "segments": "panoptic",
    }  # fmt: skip


def test_what_is_no_dataset_is_one_line_that_names_what_was_looked_for(tmp_path: Path, capsys) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "photo.jpg")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.txt").write_text("nothing")
    with pytest.raises(DataError) as caught:
        found(tmp_path)
    for words in ("COCO", "VOC", "YOLO", "semantic", "classification", "photo.jpg", "images/"):
        assert words in str(caught.value)
    assert main(["check", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no dataset recognized" in line


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_pipes_and_devices_are_not_read(tmp_path: Path, kind: str, capsys) -> None:
    """A pipe would block, and a device has no end."""
    for name in ("a.json", "a.xml", "data.yaml", "names.txt", "labels/1.txt", "images/1.png", "a.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name) if kind == "pipe" else (tmp_path / name).symlink_to(kind)

    def stop(*_: object) -> None:
        raise TimeoutError("chordate check reads a pipe or a device")

    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    try:
        assert main(["check", str(tmp_path)]) == 2
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    assert capsys.readouterr().err.startswith(f"chordate check: {tmp_path}: no dataset recognized")


def test_a_truncated_coco_file_is_recognized_and_refused(tmp_path: Path, capsys) -> None:
    """Without its categories, which are often last, it must not be left out beside the other sets."""
    for split in ("train", "val"):
        write_coco(tmp_path / split, [annotation(1, 1, [5, 5, 20, 20])])
    file = tmp_path / "train/annotations.json"
    file.write_text(file.read_text().partition('"categories"')[0])
    assert main(["check", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert f"{file}: not COCO annotations, or truncated" in capsys.readouterr().err


def test_a_config_in_json_is_no_data_and_options_of_configs_are_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"base": "no such config"}))
    assert main(["check", str(tmp_path / "own.json")]) == 2
    assert "no such config" in capsys.readouterr().err
    root = write_coco(tmp_path / "data", [annotation(1, 1, BOX)])
    assert main(["check", str(root), "--data-root", "x"]) == 2
    assert "--data-root belongs to a config" in capsys.readouterr().err


def test_bare_data_are_checked_and_the_page_says_what_they_were_taken_for(tmp_path: Path, capsys) -> None:
    boxes = [annotation(1, 1, BOX), annotation(2, 1, [5, 5, 2, 2], category=7)]
    root = write_coco(tmp_path / "data", boxes)
    assert main(["check", str(root), "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    assert output.err == "" and f"{root}: taken for COCO annotations (annotations.json); 1 set" in output.out
    html = (tmp_path / "out/index.html").read_text()
    assert "annotations=annotations.json" in html and "boxes under 4 px" in html and "taken for COCO" in html


def test_splits_with_other_classes_or_without_training_objects_are_problems(tmp_path: Path, capsys) -> None:
    write_classes(tmp_path / "folders", ("train", "val"))
    shutil.rmtree(tmp_path / "folders/val/bee")
    Image.new("RGB", (8, 6)).save(tmp_path / "folders/val/ant/9.png")
    (tmp_path / "folders/val/cow").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "folders/val/cow/9.png")
    assert main(["check", str(tmp_path / "folders"), "--out", str(tmp_path / "out")]) == 1
    assert "all classes of the set train (ant, bee)" in capsys.readouterr().err
    root = write_coco(tmp_path / "empty", [])
    assert main(["check", str(root), "--out", str(tmp_path / "out")]) == 1
    assert "nothing to train on" in capsys.readouterr().err


def test_training_sets_are_known_by_their_names() -> None:
    assert is_training("instances_train2017", False) and is_training("anything", True)
    assert not any(is_training(name, False) for name in ("val", "test", "constraint", "valid"))
