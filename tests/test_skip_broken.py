"""Missing images are an error when a dataset is opened, broken images at the latest when they are read.

With `skip_broken=True`, both are skipped and counted.
"""

import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from class_folders import write_folders
from loading import open_loader
from panoptic_files import write_panoptic
from stick_figures import detected, write_figures
from tiny_coco import annotation, write_coco

from chordate.cli.main import main
from chordate.data import CocoDataset, CocoPanoptic, ImageFolder, VocDataset, YoloDataset, paths
from chordate.data import dataset as dataset_module
from chordate.data.coco_pose import CocoPoseDataset
from chordate.data.loader import build_dataset, build_loader
from chordate.errors import BrokenFile, DataError
from chordate.evaluation.coco_metric import CocoMetric
from chordate.evaluation.semantic_metric import SemanticMetric
from chordate.structures import Detections
from chordate.structures.semantic import SemanticMap

COUNT = 8
BOXES = [annotation(number, number, [10, 10, 20, 20]) for number in range(1, COUNT + 1)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A COCO dataset of eight images, each with one box."""
    return write_coco(tmp_path, BOXES, sizes=((60, 80),) * COUNT)


def open_set(root: Path, **settings) -> CocoDataset:
    return CocoDataset("annotations.json", "images", data_root=root, **settings)


def section(**settings) -> dict:
    dataset = {"type": "CocoDataset", "annotations": "annotations.json", "images": "images", **settings}
    return {"dataset": dataset, "batch_size": 2, "workers": 0}


# On opening


def test_missing_images_are_found_on_opening(root: Path) -> None:
    for number in (3, 5):
        (root / f"images/{number}.png").unlink()
    with pytest.raises(
        DataError, match=r"images/3\.png: no such image file.*; 2 of 8 images are missing.*skip_broken=True"
    ):
        open_set(root)


def test_the_folders_are_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or real(path))
    open_set(root)
    assert listed == [f"{root}/images/"] or listed == [f"{root}/images"]


def test_links_to_missing_files_and_folders_are_missing_images(root: Path) -> None:
    for number in (2, 3, 4):
        (root / f"images/{number}.png").rename(root / f"{number}.png")
    (root / "images/2.png").symlink_to(root / "2.png")
    (root / "images/3.png").symlink_to("/nowhere/3.png")
    (root / "images/4.png").mkdir()
    message = r"images/3\.png: no such image file; it is a link to /nowhere/3\.png, which does not exist; 2 of 8 images"
    with pytest.raises(DataError, match=message) as error:
        open_set(root)
    assert f"; found {root}/3.png: move the file" in str(error.value)
    dataset = open_set(root, skip_broken=True)
    assert dataset.image_ids.tolist() == [1, 2, 5, 6, 7, 8] and dataset[(0, 1)]["info"].image_id == 2


@pytest.mark.parametrize(("folder", "remedy"), [("images/train", 'set images="images/train"'), ("", 'set images="."')])
def test_the_folder_that_has_all_images_is_offered(root: Path, folder: str, remedy: str) -> None:
    (root / folder).mkdir(exist_ok=True)
    for number in range(1, COUNT + 1):
        (root / f"images/{number}.png").rename(root / folder / f"{number}.png")
    with pytest.raises(DataError) as error:
        open_set(root)
    assert f"; found {root / folder / '1.png'}: {remedy}. skip_broken=True" in str(error.value)


@pytest.mark.parametrize(("name", "moved"), [("3.png", "more/3.png"), ("train/3.png", "images/3.png")])
def test_if_only_some_images_are_elsewhere_no_other_folder_is_offered(root: Path, name: str, moved: str) -> None:
    (root / "more").mkdir()
    (root / "images/3.png").rename(root / moved)
    rename_files(root, {3: name})
    with pytest.raises(DataError) as error:
        open_set(root)
    assert f"; found {root / moved}: move the file, or correct its file_name. skip_broken" in str(error.value)


def rename_files(root: Path, names: dict[int, str]) -> None:
    """Set the file names in the annotation file of the images with the given ids."""
    content = json.loads((root / "annotations.json").read_text())
    for image in content["images"]:
        image["file_name"] = names.get(image["id"], image["file_name"])
    (root / "annotations.json").write_text(json.dumps(content))


@pytest.mark.parametrize("ids", [range(1, COUNT + 1), [5, 7]])
def test_doubled_folders_open_and_no_image_is_skipped(root: Path, ids, monkeypatch: pytest.MonkeyPatch) -> None:
    rename_files(root, {number: f"images/{number}.png" for number in ids})
    for settings in ({}, {"skip_broken": True}):
        dataset = open_set(root, **settings)
        assert [Path(dataset[(0, index)]["info"].path) for index in range(COUNT)] == [
            root / f"images/{number}.png" for number in range(1, COUNT + 1)
        ]
        (line,) = dataset.health_report
        assert "file_name with a path to the folder images, which is left out: " in line
        assert line.endswith(f"(id {', '.join(map(str, ids))})")


def test_a_subfolder_of_the_same_name_is_not_a_doubled_folder(root: Path) -> None:
    (root / "images/images").mkdir()
    cv2.imwrite(str(root / "images/images/3.png"), np.full((60, 80, 3), 7, np.uint8))
    rename_files(root, {2: "images/3.png"})
    dataset = open_set(root)
    assert dataset.health_report == [] and (dataset[(0, 1)]["image"] == 7).all()


# The same file in several images


def test_images_with_the_same_file_are_samples_of_their_own_and_are_counted(root: Path) -> None:
    rename_files(root, {2: "1.png", 4: "3.png", 5: "images/3.png"})
    dataset = open_set(root)
    assert [Path(dataset[(0, index)]["info"].path).name[0] for index in range(COUNT)] == list("11333678")
    assert all(len(dataset[(0, index)]["boxes"]) == 1 for index in range(COUNT))
    (line,) = (line for line in dataset.health_report if "earlier" in line)
    assert line.startswith(f"{root}/annotations.json: 3 images with the file_name of an earlier image, the first: ")
    assert "1.png (ids 1 and 2); each is a sample of its own" in line


@pytest.mark.parametrize("health", ["error", "warn"])
def test_images_with_the_same_file_but_different_sizes_are_an_error(root: Path, health: str) -> None:
    content = json.loads((root / "annotations.json").read_text())
    content["images"][6] |= {"file_name": "3.png", "width": 81}
    (root / "annotations.json").write_text(json.dumps(content))
    message = (
        r"images 3 and 7 both have the file_name 3\.png, but different sizes, 80×60 and 81×60; correct one of them"
    )
    with pytest.raises(DataError, match=message):
        open_set(root, health=health)


def test_missing_images_are_left_out_and_counted(root: Path) -> None:
    for number in (1, 4):
        (root / f"images/{number}.png").unlink()
    dataset = open_set(root, skip_broken=True)
    assert dataset.image_ids.tolist() == [2, 3, 5, 6, 7, 8] and len(dataset.sizes) == 6
    assert dataset.health_report == [f"{root}/images: 2 of 8 images are missing and left out (1.png, 4.png)"]
    assert [dataset[(0, index)]["info"].image_id for index in range(6)] == [2, 3, 5, 6, 7, 8]


def test_missing_images_are_not_ground_truth(root: Path) -> None:
    (root / "images/4.png").unlink()
    assert CocoMetric(open_set(root, skip_broken=True)).truth.without_masks == COUNT - 1


def test_if_all_images_are_missing_nothing_is_skipped(root: Path) -> None:
    for file in (root / "images").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="8 of 8 images are missing"):
        open_set(root, skip_broken=True)


# On reading


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: min(200, len(content) // 2)])


def test_a_broken_image_is_replaced_by_the_next(root: Path) -> None:
    cut(root / "images/3.png")
    cut(root / "images/8.png")
    with pytest.raises(BrokenFile, match=r"3\.png"):
        open_set(root)[(0, 2)]
    dataset = open_set(root, skip_broken=True)
    assert [dataset[(0, index)]["info"].image_id for index in range(COUNT)] == [1, 2, 4, 4, 5, 6, 7, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_the_same_length_and_reports_broken_images_once(root: Path, caplog, workers: int) -> None:
    cut(root / "images/3.png")
    data = section(skip_broken=True) | {"workers": workers, "group_by_aspect": False}
    loader = open_loader(data, data_root=root, training=True)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="chordate"):
        ids = [info.image_id for batch in loader for info in batch.infos]
    loader.stop_workers()
    assert len(ids) == COUNT and set(ids) == {1, 2, 4, 5, 6, 7, 8}
    (report,) = (record.message for record in caplog.records)
    assert report.startswith(f"1 of 8 samples are broken and were skipped, the first: {root}/images/3.png: ")
    assert "truncated" in report


def test_the_replacement_does_not_depend_on_the_workers(root: Path) -> None:
    cut(root / "images/3.png")
    pictures = []
    for workers in (0, 2):
        data = section(skip_broken=True) | {"workers": workers, "pipeline": [{"type": "RandomHorizontalFlip"}]}
        loader = open_loader(data, data_root=root, training=True, seed=4)
        pictures.append(torch.cat([batch.images.flatten() for batch in loader]))
        loader.stop_workers()
    assert torch.equal(*pictures)


def test_too_many_broken_images_in_a_row_are_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "MAX_SKIPPED", 3)
    for number in (2, 3, 4):
        cut(root / f"images/{number}.png")
    dataset = open_set(root, skip_broken=True)
    assert dataset[(0, 2)]["info"].image_id == 5
    with pytest.raises(BrokenFile, match=r"3 samples in a row are broken, the last: .*4\.png"):
        dataset[(0, 1)]


def test_other_errors_are_not_skipped(root: Path) -> None:
    cv2.imwrite(str(root / "images/3.png"), np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(DataError, match="the image is 40×30, but the annotations say 80×60"):
        open_set(root, skip_broken=True)[(0, 2)]


@pytest.mark.parametrize("cache", [False, True])
def test_class_folders_skip_broken_images(tmp_path: Path, cache: bool) -> None:
    root = write_folders(tmp_path, {"train": 3})
    cut(root / "train/green/1.png")
    data = {"dataset": {"type": "ImageFolder", "images": "train", "cache": cache}}
    with pytest.raises(BrokenFile, match=r"green/1\.png"):
        dataset = build_dataset(data, data_root=root, training=True)
        [dataset[(0, index)] for index in range(len(dataset))]
    dataset = ImageFolder("train", cache=cache, data_root=root, skip_broken=True)
    files = [Path(dataset[(0, index)]["info"].path).relative_to(root / "train") for index in range(9)]
    assert [str(file) for file in files[3:6]] == ["green/0.png", "green/2.png", "green/2.png"]


def test_voc_and_yolo_leave_out_images_whose_size_cannot_be_read(tmp_path: Path) -> None:
    rows = "<annotation><filename>{}.png</filename></annotation>"
    for number in (1, 2):
        for folder in ("JPEGImages", "images", "Annotations", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for folder in ("JPEGImages", "images"):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), np.zeros((9, 9, 3), np.uint8))
        (tmp_path / f"Annotations/{number}.xml").write_text(rows.format(number).replace("</a", "<object><name>a</name>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></a"))  # fmt: skip
    for folder in ("JPEGImages", "images"):
        (tmp_path / folder / "1.png").write_bytes(b"\x89PNG")
    for opened in (
        lambda **skip: VocDataset(tmp_path, **skip),
        lambda **skip: YoloDataset("images", "labels", ["a"], data_root=tmp_path, **skip),
    ):
        with pytest.raises(BrokenFile, match=r"1\.png"):
            opened()
        dataset = opened(skip_broken=True)
        assert len(dataset) == 1 and dataset.health_report[0].startswith("1 broken image left out, the first: ")


def test_the_evaluation_reports_images_that_were_broken(root: Path) -> None:
    cut(root / "images/3.png")
    data = section(skip_broken=True)
    dataset = build_dataset(data, data_root=root, training=False)
    loader = build_loader(dataset, data, training=False)
    metric = CocoMetric(dataset)
    for batch in loader:
        boxes = torch.tensor([[10.0, 10, 30, 30]])
        metric.update([Detections(boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64)) for _ in batch.infos], batch)
    with pytest.warns(UserWarning, match="1 of 8 images were not evaluated; their objects count as missed"):
        metric.compute()


def test_an_image_that_replaces_a_broken_one_is_counted_once_in_semantic_metrics(tmp_path: Path) -> None:
    labels = np.zeros((8, 9), np.uint8)
    labels[:, 4:] = 1
    for number in range(4):
        for folder, pixels in (("images", np.full((8, 9, 3), 90, np.uint8)), ("labels", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), pixels)
    cut(tmp_path / "images/1.png")
    (tmp_path / "labels/2.png").write_bytes(b"broken")
    data = {"dataset": {"type": "SemanticFolder", "images": "images", "labels": "labels", "classes": ["a", "b"]}}
    with pytest.raises(BrokenFile, match=r"labels/2\.png"):
        build_dataset(data, data_root=tmp_path, training=False)
    data["dataset"]["skip_broken"] = True
    data["workers"] = 0
    dataset = build_dataset(data, data_root=tmp_path, training=False)
    metric = SemanticMetric(dataset)
    for batch in build_loader(dataset, data, training=False):
        metric.update([SemanticMap(batch.targets.labels[0].clamp(min=0))], batch)
    assert metric.compute()["mIoU"] == 1
    assert sum(row["pixels"] for row in metric.per_class().values()) == 2 * labels.size


def test_names_of_panoptic_data_may_have_backslashes_or_the_folder(tmp_path: Path) -> None:
    content = write_panoptic(tmp_path, 3)
    content["images"][1]["file_name"] = "images/1.jpg"
    content["annotations"][2]["file_name"] = ".\\2.png"
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    dataset = CocoPanoptic("panoptic.json", "images", data_root=tmp_path)
    assert [Path(dataset[(0, index)]["info"].path).name for index in range(3)] == ["2.jpg", "1.jpg", "0.jpg"]
    assert ["1 file name" in line and first in line for line, first in zip(dataset.health_report, "12")] == [True] * 2
    content["images"][1]["file_name"] = "0.jpg"
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    report = CocoPanoptic("panoptic.json", "images", data_root=tmp_path).health_report
    assert "1 image with the file_name of an earlier image, the first: 0.jpg (ids 49 and 50)" in report[0]


def test_missing_images_of_panoptic_data_are_found_on_opening(tmp_path: Path) -> None:
    content = write_panoptic(tmp_path, 5)
    (tmp_path / "images/1.jpg").unlink()
    with pytest.raises(DataError, match=r"images/1\.jpg: no such image file"):
        CocoPanoptic("panoptic.json", "images", data_root=tmp_path)
    (tmp_path / "panoptic/3.png").unlink()
    dataset = CocoPanoptic("panoptic.json", "images", data_root=tmp_path, skip_broken=True)
    assert [dataset[(0, index)]["info"].image_id for index in range(len(dataset))] == [46, 48, 50]
    assert [" and left out (" in line for line in dataset.health_report] == [True, True]
    assert "1 of 5 images are missing" in dataset.health_report[0] and "(1.jpg)" in dataset.health_report[0]
    assert "1 of 4 panoptic PNGs are missing" in dataset.health_report[1] and "(3.png)" in dataset.health_report[1]
    assert [line.rpartition("/")[2].split(":")[0] for line in dataset.left_out] == ["1.jpg", "3.png"]
    for key, field in (("images", "id"), ("annotations", "image_id")):
        content[key] = [record for record in content[key] if record[field] in (46, 48, 50)]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    alone = CocoPanoptic("panoptic.json", "images", data_root=tmp_path)
    for index in range(3):
        ours, expected = dataset.original(index).targets, alone.original(index).targets
        assert torch.equal(ours.labels, expected.labels) and torch.equal(ours.slots, expected.slots)


@pytest.mark.parametrize("rename", [int, lambda number: f"photo {number}", lambda number: 2**60 + number])
def test_detected_boxes_of_missing_images_are_left_out(tmp_path: Path, rename) -> None:
    content = write_figures(tmp_path)
    for record in content["images"]:
        record["id"] = rename(record["id"])
    for record in content["annotations"]:
        record["image_id"] = rename(record["image_id"])
    (tmp_path / "figures.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(detected(content)))
    (tmp_path / "images/2.png").unlink()
    dataset = CocoPoseDataset("figures.json", "images", boxes="found.json", data_root=tmp_path, skip_broken=True)
    boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] != rename(20)]
    assert len(dataset) == len(boxes) == 10
    corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    assert sorted(dataset.boxes.tolist()) == sorted(corners)
    assert "2.png" not in {Path(dataset.read(index)["info"].path).name for index in range(10)}
    assert {dataset.id_in_file(index) for index in range(10)} == {rename(10 * number) for number in (1, 3, 4, 5, 6)}
    (tmp_path / "found.json").write_text(json.dumps([*detected(content), *detected(content, image_id=77)]))
    with pytest.raises(DataError, match="12 of 22 boxes belong to images that are not in the annotation file"):
        CocoPoseDataset("figures.json", "images", boxes="found.json", data_root=tmp_path, skip_broken=True)


def test_similar_names_are_not_searched_for_skipped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the names after "did you mean" takes 0.1 s in a folder of 3,000 files."""
    root, searched = write_coco(tmp_path, BOXES, sizes=((60, 80),) * COUNT), []
    dataset = open_set(root, skip_broken=True)
    for number in range(2, COUNT + 1):
        (root / f"images/{number}.png").unlink()
    near = paths.near_names
    monkeypatch.setattr(paths, "near_names", lambda *arguments: searched.append(arguments) or near(*arguments))
    assert dataset[(0, 1)]["info"].image_id == 1 and not searched
    dataset.skip_broken = False
    with pytest.raises(BrokenFile) as error:
        dataset[(0, 1)]
    assert "images/2.png: no such image file; did you mean 1.png" in str(error.value) and len(searched) == 1


def test_training_goes_on_past_missing_and_broken_images(root: Path, capsys) -> None:
    (root / "images/2.png").unlink()
    cut(root / "images/3.png")
    settings = [
        "train.epochs=2", "train.tensorboard=False", "train_data.batch_size=1", "train_data.workers=0",
        "train_data.dataset.annotations=annotations.json", "train_data.dataset.images=images", "val_data=None",
        "train_data.dataset.skip_broken=True", "train.eval_every=0", "model.backbone.pretrained=None",
    ]  # fmt: skip
    arguments = ["--data-root", str(root), "--work-dir", str(root / "run"), "--cfg-options", *settings]
    assert main(["train", "faster-rcnn_r18_fpn_demo_shapes", *arguments]) == 0
    log = next((root / "run").glob("*/train.log")).read_text()
    assert log.count("1 of 8 images are missing and left out (2.png)") == 1
    assert log.count("1 of 7 samples are broken and were skipped, the first: ") == 1
