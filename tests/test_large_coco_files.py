"""Very large COCO files: only the annotations of the first images are checked when the file is opened."""

import logging
from pathlib import Path

import pytest
from coco_mutants import (
    IMAGES,
    changed,
    clean_content,
    open_set,
    write_content,
    write_images,
)
from loading import open_loader

from chordate.data import coco_annotations
from chordate.data.loader import build_dataset
from chordate.errors import DataError
from chordate.evaluation import CocoMetric

OBJECTS = 3 * IMAGES


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def large_files(monkeypatch) -> None:
    """Treat files with more than 5 annotations and 2 images as very large: opening checks only their first 2 images."""
    monkeypatch.setattr(coco_annotations, "CHECKED_ANNOTATIONS", 5)
    monkeypatch.setattr(coco_annotations, "CHECKED_IMAGES", 2)


def section(**settings) -> dict:
    return {"dataset": {"type": "CocoDataset", "annotations": "annotations.json", "images": "images", **settings}}


def test_only_the_first_images_of_a_very_large_file_are_checked_at_once(root, large_files, caplog):
    """Other images are checked when they are read; before an evaluation, all images are checked."""
    content = changed("annotations", 7, segmentation={"size": [10**9, 10**9], "counts": [0, 5]})
    content["annotations"][9]["segmentation"] = [[1, 2, 3, 4]]
    write_content(root, content)
    dataset = open_set(root, masks=True)
    assert (dataset.checked, dataset.health_report) == (2, [])
    assert dataset[(0, 1)]["has_mask"].all()
    with pytest.raises(DataError, match=r"RLE .* does not fit its image: .*\(id 8\)"):
        dataset[(0, 2)]
    with caplog.at_level(logging.WARNING):
        assert dataset[(0, 3)]["has_mask"].tolist() == [False, True, False]  # the last is a crowd
    (line,) = dataset.read_report()
    assert "polygon" in line and "(id 10)" in line and not caplog.text
    with pytest.raises(DataError, match="only the annotations of its first images are checked.*check_whole=True"):
        dataset.check_annotated(training=False)
    with pytest.raises(DataError, match=r"RLE .* does not fit its image: .*\(id 8\)"):
        build_dataset(section(masks=True), data_root=root, training=False)
    tolerant = open_set(root, masks=True, health="warn")
    assert tolerant[(0, 2)]["has_mask"].tolist() == [True, False, True]
    assert len(tolerant[(0, 2)]["boxes"]) == 3
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        evaluated = build_dataset(section(masks=True, health="warn"), data_root=root, training=False)
    assert "(id 8)" in caplog.text and "(id 10)" in caplog.text
    assert evaluated.coco.load_anns([8])[0].get("segmentation") is None


@pytest.mark.parametrize("workers", [0, 2])
def test_flaws_that_are_found_when_a_very_large_file_is_read_are_reported_once_with_their_number(
    tmp_path, large_files, caplog, workers
):
    """The messages of all epochs and loader workers together equal the report of a check of the whole file."""
    content = changed("annotations", slice(6, 12), area=-1)
    content["annotations"][7]["iscrowd"] = 0
    content["annotations"][8]["segmentation"] = {"size": [10**9, 10**9], "counts": [0, 5]}
    root = write_content(write_images(tmp_path), content)
    data = section(health="warn") | {"workers": workers, "batch_size": 1}
    loader = open_loader(data, data_root=root, training=True)
    assert (loader.dataset.checked, loader.dataset.health_report) == (2, [])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            loader.start_epoch(epoch)
            assert len(list(loader)) == IMAGES
    loader.stop_workers()
    lines = open_set(root, health="warn", check_whole=True).health_report
    assert len(lines) == 2 and "(id 9)" in lines[0] and "(id 7, 8, 9, 10, 11, 12)" in lines[1]
    assert [record.getMessage() for record in caplog.records] == lines


def test_missing_images_of_a_very_large_file_are_not_ground_truth_of_an_evaluation(tmp_path, large_files, monkeypatch):
    """The file is opened once: an image that was missing on opening stays excluded when all annotations are checked."""
    opened = []
    real = coco_annotations.open_index
    monkeypatch.setattr("chordate.data.coco.open_index", lambda path: opened.append(path) or real(path))
    content = clean_content()
    content["annotations"][10]["segmentation"] = None  # image 4, after the images that are checked at first
    write_content(write_images(tmp_path), content)
    (tmp_path / "images" / "3.png").unlink()
    dataset = build_dataset(section(masks=True, skip_broken=True), data_root=tmp_path, training=False)
    metric = CocoMetric(dataset)
    assert len(opened) == 1
    assert dataset.image_ids.tolist() == sorted(dataset.coco.get_img_ids()) == [1, 2, 4]
    assert metric.truth.with_masks + metric.truth.without_masks == OBJECTS - 3
    assert any("(id 11)" in line for line in dataset.health_report)  # the whole file was checked
