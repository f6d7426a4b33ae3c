"""Validation files are checked by their first and last bytes before training; the reference reads whole files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from class_folders import write_folders
from label_images import folder, masks_of, write
from panoptic_files import write_panoptic
from tiny_coco import annotation, write_coco

from chordate.cli.main import main
from chordate.data import CocoDataset, CocoPanoptic, ImageFolder, check_files
from chordate.data.check_files import check_all_files
from chordate.data.coco_pose import CocoPoseDataset
from chordate.data.dataset import Dataset
from chordate.data.image_headers import check_image
from chordate.data.image_io import read_image
from chordate.errors import BrokenFile, DataError

PHOTO = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def outcome(read: Callable[..., Any], *arguments: Any) -> type | None:
    try:
        read(*arguments)
    except DataError as error:
        assert str(arguments[0]) in str(error)
        return type(error)
    return None


@pytest.mark.parametrize("size", [None, (60, 80), (80, 60), (30, 40)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp", "tif", "gif", "npy", "jp2"])
def test_a_check_fails_if_reading_fails(tmp_path: Path, ending: str, share: float, size: Any) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, np.asarray(PHOTO))
    elif ending == "jp2":
        cv2.imwrite(str(path), np.asarray(PHOTO))
    else:
        PHOTO.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert outcome(check_image, path, size, read_image) == outcome(read_image, path, size)


@pytest.mark.parametrize("size", [(60, 80), (80, 60)])
@pytest.mark.parametrize("ending", ["jpg", "tif", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_displayed_or_the_stored_image(
    tmp_path: Path, orientation: int, ending: str, size: Any
) -> None:
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    PHOTO.save(path := tmp_path / f"a.{ending}", exif=exif)
    assert outcome(check_image, path, size, read_image) == outcome(read_image, path, size)


def test_complete_files_are_not_decoded(tmp_path: Path) -> None:
    for ending in ("jpg", "png"):
        PHOTO.save(tmp_path / f"a.{ending}")
        check_image(tmp_path / f"a.{ending}", (60, 80), lambda path: pytest.fail(f"{path} is read"))


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def coco(root: Path, **settings: Any) -> Dataset:
    write_coco(root, [annotation(1, 1, [1, 1, 9, 9])], sizes=((60, 80),) * 5)
    return CocoDataset("annotations.json", "images", data_root=root, **settings)


def pose(root: Path, **settings: Any) -> Dataset:
    points = {"keypoints": [5, 5, 2], "num_keypoints": 1}
    objects = [annotation(id, 1 + id // 2, [1, 1, 30, 30], **points) for id in range(10)]
    categories = [{"id": 3, "name": "cat", "keypoints": ["nose"], "skeleton": []}]
    write_coco(root, objects, sizes=((60, 80),) * 5, categories=categories)
    return CocoPoseDataset("annotations.json", "images", data_root=root, **settings)


def panoptic(root: Path, **settings: Any) -> Dataset:
    write_panoptic(root, 5)
    return CocoPanoptic("panoptic.json", "images", data_root=root, **settings)


def semantic(root: Path, **settings: Any) -> Dataset:
    return folder(write(root, masks_of([0, 1], 40)), ["a", "b"], **settings)


def class_folders(root: Path, **settings: Any) -> Dataset:
    return ImageFolder("train", data_root=write_folders(root, {"train": 3}), **settings)


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (coco, "images/4.png"),
        (pose, "images/4.png"),
        (panoptic, "images/3.jpg"),
        (panoptic, "panoptic/3.png"),
        (semantic, "images/037.jpg"),
        (semantic, "labels/037.png"),
        (class_folders, "train/green/2.png"),
    ],
)
def test_broken_files_of_any_dataset_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[..., Dataset], file: str
) -> None:
    dataset = make(tmp_path)
    check_all_files(dataset, "val_data")
    cut(tmp_path / file)
    with pytest.raises(BrokenFile) as referee:
        for index in range(len(dataset)):
            dataset.read(index)
    with pytest.raises(DataError) as error:
        check_all_files(dataset, "val_data")
    assert str(tmp_path / file) in str(referee.value) and str(tmp_path / file) in str(error.value)
    dataset.skip_broken = True
    with caplog.at_level(logging.WARNING, logger="chordate"):
        check_all_files(dataset, "val_data")
    (warning,) = (record.message for record in caplog.records)
    assert warning.startswith(f"val_data: 1 of {len(dataset)} samples are broken and will be skipped, the first: ")
    assert str(tmp_path / file) in warning


@pytest.mark.parametrize(
    ("make", "file"), [(panoptic, "panoptic/3.png"), (semantic, "labels/037.png"), (coco, "images/4.png")]
)
def test_wrong_sizes_of_any_dataset_are_found_and_never_skipped(
    tmp_path: Path, make: Callable[..., Dataset], file: str
) -> None:
    dataset = make(tmp_path, skip_broken=True)
    PIL.Image.fromarray(np.zeros((50, 50), np.uint8)).save(tmp_path / file)
    with pytest.raises(DataError, match=file.rpartition("/")[2] + ".*50×50"):
        check_all_files(dataset, "val_data")


def test_if_all_files_are_broken_nothing_is_skipped(tmp_path: Path) -> None:
    dataset = coco(tmp_path, skip_broken=True)
    for file in (tmp_path / "images").iterdir():
        cut(file)
    with pytest.raises(DataError, match="val_data: all files are broken, the first: .*1.png"):
        check_all_files(dataset, "val_data")


def test_each_rank_checks_a_part_and_all_raise_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, ranks, checked = coco(tmp_path), range(3), []
    whole, own = CocoDataset.check_files, {}
    for number in (2, 3, 4):
        cut(tmp_path / f"images/{number}.png")

    def run(rank: int, gather: Callable[[Any], list[Any]]) -> str:
        monkeypatch.setattr(check_files, "rank", lambda: rank)
        monkeypatch.setattr(check_files, "all_gather_object", gather)
        with pytest.raises(DataError) as error:
            check_all_files(dataset, "val_data")
        return str(error.value)

    monkeypatch.setattr(CocoDataset, "check_files", lambda self, index: (checked.append(index), whole(self, index)))
    monkeypatch.setattr(check_files, "world_size", lambda: len(ranks))
    for rank in ranks:  # one rank after another, to record what each sends to the others
        run(rank, lambda value, rank=rank: [own.setdefault(rank, value)])
    assert sorted(checked) == [0, 1, 2, 3, 4]
    (message,) = {run(rank, lambda value: list(own.values())) for rank in ranks}
    assert "images/2.png: " in message and message.endswith("(3 of 5 samples cannot be read)")


def test_a_broken_validation_image_is_found_before_training_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path, [annotation(n, n, [5, 5, 30, 30]) for n in (1, 2, 3, 4, 5)], sizes=((60, 80),) * 5)
    content = json.loads((tmp_path / "annotations.json").read_text())
    (tmp_path / "one.json").write_text(
        json.dumps({**content, "images": content["images"][:1], "annotations": content["annotations"][:1]})
    )
    cut(tmp_path / "images/2.png")  # not among the samples that are read when a dataset is opened
    settings = [
        "train.epochs=1", "train.tensorboard=False", "model.backbone.pretrained=None", "train_data.batch_size=1",
        "train_data.dataset.annotations=one.json", "train_data.dataset.images=images",
        "val_data.dataset.annotations=annotations.json", "val_data.dataset.images=images",
    ]  # fmt: skip
    arguments = ["--data-root", str(tmp_path), "--work-dir", str(tmp_path / "run"), "--cfg-options", *settings]
    assert main(["train", "faster-rcnn_r18_fpn_demo_shapes", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "images/2.png: broken or truncated" in lines[0]
    assert not (tmp_path / "run").exists()
