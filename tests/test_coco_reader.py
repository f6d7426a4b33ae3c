"""COCO files of annotation tools are read as by a naive reader, or refused with a one-line error.

Files are made from one clean dict and a mutation. The referee is `coco_mutants.read_naively`.
"""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from coco_mutants import (
    HEIGHT,
    IMAGES,
    WIDTH,
    changed,
    clean_content,
    open_set,
    outcome,
    read_all,
    read_naively,
    same,
    write_content,
    write_images,
)
from loading import open_loader
from pycocotools import mask as rle

from chordate.data import coco_annotations
from chordate.data.loader import build_dataset
from chordate.errors import DataError
from chordate.evaluation import CocoMetric

OBJECTS = 3 * IMAGES


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("reader"))


def with_top(**more) -> dict:
    return clean_content() | more


def renamed_ids(kind: str, rename) -> dict:
    """The clean content with other ids of images or categories."""
    content, field = clean_content(), {"images": "image_id", "categories": "category_id"}[kind]
    for record in content[kind]:
        record["id"] = rename(record["id"])
    for annotation in content["annotations"]:
        annotation[field] = rename(annotation[field])
    return content


def rle_of(record: dict, height: int = HEIGHT, width: int = WIDTH, compressed: bool = True) -> dict:
    """The bounding box of an annotation as an RLE mask of size `height` × `width`."""
    mask = np.zeros((height, width), np.uint8, order="F")
    x, y, w, h = record["bbox"]
    mask[y : y + h, x : x + w] = 1
    if compressed:
        return {"size": [height, width], "counts": rle.encode(mask)["counts"].decode()}
    edges = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0)).tolist()
    return {"size": [height, width], "counts": np.diff([0, *edges, mask.size]).tolist()}


def flat(record: dict) -> list:
    return record["segmentation"][0]


NOTHING_TO_REPORT = {
    "clean": clean_content(),
    "CVAT's header": with_top(
        licenses=[{"name": "", "id": 0, "url": ""}],
        info={"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
    ),
    "Roboflow's header": with_top(
        info={"year": "2022", "version": 1, "contributor": None}, licenses=[{"id": "1", "url": None, "name": 1}]
    ),
    "info is text": with_top(info="my data"),
    "licenses are null": with_top(licenses=None),
    "date_captured is a number": changed("images", date_captured=1_700_000_000, license="x", flickr_url=5),
    "odd extra fields": changed(
        "annotations", score="0.9", caption=5, attributes=[], ignore="0", track_id=None, rotation="x"
    ),
    "keypoint skeleton by names": changed(
        "categories", keypoints=["p0", "p1"], skeleton=[["p0", "p1"]], supercategory=None
    ),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(clean_content()).encode(),
    "UTF-16": json.dumps(clean_content()).encode("utf-16"),
    "no iscrowd": changed("annotations", slice(0, 11), iscrowd=...),
    "iscrowd is null": changed("annotations", slice(0, 11), iscrowd=None),
    "iscrowd is a bool": changed("annotations", iscrowd=lambda a: bool(a["iscrowd"])),
    "iscrowd is text": changed("annotations", iscrowd=lambda a: str(a["iscrowd"])),
    "no area": changed("annotations", area=...),
    "area is null": changed("annotations", area=None),
    "area is text": changed("annotations", area="180"),
    "bbox is text": changed("annotations", bbox=lambda a: [str(side) for side in a["bbox"]]),
    "size is text": changed("images", width=str(WIDTH), height=f"{HEIGHT}.0"),
    "no bbox, but a mask": changed("annotations", bbox=...),
    "bbox is null or empty": changed("annotations", bbox=lambda a: [] if a["id"] % 2 else None),
    "no segmentation": changed("annotations", segmentation=...),
    "segmentation is null or empty": changed("annotations", segmentation=lambda a: [] if a["id"] % 2 else None),
    "compressed RLE": changed("annotations", segmentation=rle_of),
    "uncompressed RLE": changed("annotations", segmentation=lambda a: rle_of(a, compressed=False)),
    "annotation ids are text": changed("annotations", id=lambda a: str(a["id"])),
    "annotation ids are floats": changed("annotations", id=lambda a: float(a["id"])),
    "category ids from 0": renamed_ids("categories", lambda id: id - 1),
    "image ids from 0": renamed_ids("images", lambda id: id - 1),
    "category ids are text": renamed_ids("categories", str),
    "category ids are words": renamed_ids("categories", lambda id: "xyz"[id - 1]),
    "image ids are text": renamed_ids("images", str),
    "image ids are file names": renamed_ids("images", lambda id: f"image {id}.png"),
    "image ids are negative": renamed_ids("images", lambda id: id - 3),
    "image ids above 2^53": renamed_ids("images", lambda id: 2**60 + id),
    "image ids above 2^63": renamed_ids("images", lambda id: 2**63 + id),
    "ids of other kinds in annotations": changed("annotations", image_id=lambda a: str(a["image_id"])),
    "unused huge number": json.dumps(clean_content()).replace('"images"', f'"x": {"9" * 6000}, "images"').encode(),
    "unused infinity": json.dumps(with_top(info={"year": float("inf")})).encode(),
    "a key twice": json.dumps(clean_content()).replace('"images"', '"images": [], "images"').encode(),
}


@pytest.mark.parametrize("content", NOTHING_TO_REPORT.values(), ids=NOTHING_TO_REPORT)
def test_fields_that_are_unused_or_written_otherwise_change_no_sample(root, content):
    write_content(root, content)
    dataset = open_set(root)
    assert same(read_all(dataset), naive := _naive(root, content))
    assert sum(map(len, naive.values())) == OBJECTS
    assert dataset.health_report == []


def _naive(root: Path, content) -> dict:
    """The referee's samples; those of the clean content if it cannot read `content` (huge integers, UTF-16)."""
    if isinstance(content, bytes) and (b"9" * 99 in content or content.startswith(b"\xff\xfe")):
        content = clean_content()
    return read_naively(write_content(root, content))


REPAIRED = {
    "annotation ids repeated": (changed("annotations", id=1), r"duplicate annotation ids, .* \(id 1, .*11 in all\)"),
    "no annotation ids": (changed("annotations", id=...), r"annotations without an id.*12 in all"),
    "annotation ids are null": (changed("annotations", id=None), r"annotations without an id.*12 in all"),
    "no size": (changed("images", width=..., height=...), r"without a height and width.*\(id 1, 2, 3, 4\)"),
    "size is null": (changed("images", width=None, height=None), r"without a height and width.*\(id 1, 2, 3, 4\)"),
    "size is 0": (changed("images", 1, width=0), r"without a height and width.*\(id 2\)"),
    "size is negative": (changed("images", 1, width=-80), r"without a height and width.*\(id 2\)"),
    "size is huge": (changed("images", 1, width=2**31, height=2**31), r"without a height and width.*\(id 2\)"),
    "backslashes": (changed("images", file_name=lambda i: f".\\{i['id']}.png"), r"backslashes.*\(id 1, 2, 3, 4\)"),
    "Windows, under the image folder": (
        changed("images", file_name=lambda i: f"images\\{i['id']}.png"),
        r"backslashes.*\(id 1, 2, 3, 4\)",
    ),
    "image folder in the names": (
        changed("images", file_name=lambda i: f"images/{i['id']}.png"),
        r"starts with the folder images.*\(id 1, 2, 3, 4\)",
    ),
    "area is negative": (changed("annotations", 3, area=-5), r"area is not a positive number.*\(id 4\)"),
    "area is 0": (changed("annotations", 3, area=0), r"area is not a positive number.*\(id 4\)"),
    "area is NaN": (changed("annotations", 3, area=float("nan")), r"area is not a positive number.*\(id 4\)"),
    "flat polygon": (changed("annotations", 2, segmentation=flat), r"one polygon without the list.*\(id 3\)"),
    "polygon of two points": (changed("annotations", 2, segmentation=[[5, 6, 14, 15]]), r"polygon .*ignored \(id 3\)"),
    "odd polygon": (changed("annotations", 2, segmentation=lambda a: [[*flat(a), 3]]), r"polygon .*ignored \(id 3\)"),
    "polygon with null": (changed("annotations", 2, segmentation=[[5, 6, None, 9, 1, 2]]), r"polygon .*\(id 3\)"),
    "polygon is text": (changed("annotations", 2, segmentation="5 6 14 15"), r"polygon .*ignored \(id 3\)"),
    "polygon without area": (changed("annotations", 2, segmentation=[[5, 6] * 4]), r"polygon .*ignored \(id 3\)"),
    "bad skeleton": (changed("categories", 0, keypoints=["a", "b"], skeleton=[["a", "c"]]), r"skeleton .*\(id 1\)"),
}


@pytest.mark.parametrize(("content", "report"), REPAIRED.values(), ids=REPAIRED)
def test_repairs_change_no_box_and_are_reported_in_one_line(root, content, report):
    write_content(root, content)
    dataset = open_set(root)
    assert same(read_all(dataset), read_naively(write_content(root, _without(content, "segmentation"))))
    (line,) = dataset.health_report
    assert line.startswith(f"{root}/annotations.json: ") and re.search(report, line), line


def _without(content: dict, field: str) -> dict:
    """The content without the annotations' `field`, whose values the referee cannot read."""
    annotations = [{k: v for k, v in a.items() if k != field} for a in content["annotations"]]
    return content | {"annotations": annotations}


# Content, message, and number of objects that are left with health="warn".
CONTRADICTIONS = {
    "bbox of nulls": (changed("annotations", 0, bbox=[None] * 4), r"bbox is not four .*\[None, .*\(id 1\)", 11),
    "bbox of three numbers": (changed("annotations", 0, bbox=[1, 2, 3]), r"bbox is not .*\[1, 2, 3\] \(id 1\)", 11),
    "bbox of five numbers": (changed("annotations", 0, bbox=[1, 2, 3, 4, 5]), r"bbox is not four .*\(id 1\)", 11),
    "bbox is NaN": (changed("annotations", 0, bbox=[1, 2, float("nan"), 4]), r"bbox is not four .*\(id 1\)", 11),
    "bbox is infinite": (changed("annotations", 0, bbox=[1, 2, 3, float("inf")]), r"bbox is not four .*\(id 1\)", 11),
    "bbox is huge": (changed("annotations", 0, bbox=[1, 2, 1e300, 4]), r"bbox is not four .*\(id 1\)", 11),
    "bbox is a huge integer": (changed("annotations", 0, bbox=[1, 2, 10**350, 4]), r"bbox is not four .*\(id 1\)", 11),
    "bbox is a word": (changed("annotations", 0, bbox="large"), r"bbox is not four .*'large' \(id 1\)", 11),
    "bbox of words": (changed("annotations", 0, bbox=["a", "b", "c", "d"]), r"bbox is not four .*\(id 1\)", 11),
    "bbox of bools": (changed("annotations", 0, bbox=[True, True, 9, 9]), r"bbox is not four .*\(id 1\)", 11),
    "neither bbox nor mask": (changed("annotations", 0, bbox=..., segmentation=...), r"no bbox and no .*\(id 1\)", 11),
    "iscrowd is 2": (changed("annotations", 0, iscrowd=2), r"iscrowd is not 0 or 1: 2 \(id 1\)", 11),
    "iscrowd is 0.5": (changed("annotations", 0, iscrowd=0.5), r"iscrowd is not 0 or 1: 0.5 \(id 1\)", 11),
    "iscrowd is a list": (changed("annotations", 0, iscrowd=[0]), r"iscrowd is not 0 or 1: \[0\] \(id 1\)", 11),
    "RLE of another size": (
        changed("annotations", 0, segmentation=lambda a: rle_of(a, 2 * HEIGHT, 2 * WIDTH)),
        r"RLE .* fit its image: 160×120 px in an image of 80×60 px \(id 1\)",
        12,
    ),
    "RLE without a size": (
        changed("annotations", 0, segmentation=lambda a: {"counts": rle_of(a)["counts"]}),
        r"RLE .* fit its image: size None in an image of 80×60 px \(id 1\)",
        12,
    ),
    "RLE of a gigantic size": (
        changed("annotations", 0, segmentation={"size": [10**9, 10**9], "counts": [0, 5]}),
        r"RLE .*: 1000000000×1000000000 px in an image of 80×60 px \(id 1\)",
        12,
    ),
    "RLE with too few counts": (
        changed("annotations", 0, segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 5]}),
        r"RLE .*: counts of 10 pixels in an image of 80×60 px = 4,800 \(id 1\)",
        12,
    ),
    "RLE with gigantic counts": (
        changed("annotations", 0, segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 4 * 10**9]}),
        r"RLE .*: counts of 4,000,000,005? ?.*\(id 1\)|RLE .*counts that are neither.*\(id 1\)",
        12,
    ),
    "RLE with negative counts": (
        changed("annotations", 0, segmentation={"size": [HEIGHT, WIDTH], "counts": [-5, 4805]}),
        r"RLE .*: counts that are neither.*\(id 1\)",
        12,
    ),
    "RLE with nonsense counts": (
        changed("annotations", 0, segmentation={"size": [HEIGHT, WIDTH], "counts": "zzzz~~ é"}),
        r"RLE .*: counts that are neither.*\(id 1\)",
        12,
    ),
    "unknown image": (changed("annotations", 0, image_id=99), r"image IDs not present in images: .*99 \(id 1\)", 11),
    "no image_id": (changed("annotations", 0, image_id=...), r"image IDs not present in images: .*None \(id 1\)", 11),
    "unknown category": (changed("annotations", 0, category_id="x"), r"category IDs not present .*'x' \(id 1\)", 11),
    "category_id is null": (changed("annotations", 0, category_id=None), r"category IDs not .*None \(id 1\)", 11),
    "an annotation is null": (
        with_top(annotations=[None, *clean_content()["annotations"][1:]]),
        r"entries of annotations that are no objects: None \(id no. 1\)",
        11,
    ),
    "image ids repeated": (changed("images", 1, id=1), r"duplicate image ids \(id 1\)", 9),
    "an image without an id": (changed("images", 1, id=None), r"image without an id: None \(id no. 2\)", 9),
    "category ids repeated": (changed("categories", 1, id=1), r"duplicate category ids \(id 1\)", 8),
    "category names repeated": (changed("categories", 1, name="alpha"), r"name of an earlier .*'alpha' \(id 2\)", 8),
    "a category without a name": (changed("categories", 1, name=...), r"category without a name: None \(id 2\)", 8),
    "file_name is a list": (changed("images", 1, file_name=["2.png"]), r"file_name is not the name .*\(id 2\)", 9),
    "neither size nor image": (
        changed("images", 1, width=None, file_name="none.png"),
        r"images without a height and width in pixels: .*\(id 2\)",
        9,
    ),
}


@pytest.mark.parametrize(("content", "message", "left"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_errors_at_opening_or_are_left_out(root, content, message, left):
    write_content(root, content)
    with pytest.raises(DataError) as error:
        open_set(root)
    text = str(error.value)
    assert text.startswith(f"{root}/annotations.json: ") and re.search(message, text), text
    assert 'health="warn"' in text and len(text.splitlines()) == 1 and len(text) < 600
    dataset = open_set(root, health="warn")
    part = "masks " if left == OBJECTS else ""  # an object stays if only its mask is left out
    assert dataset.health_report[0].startswith(f"{root}/annotations.json: {part}left out: ")
    assert re.search(message, dataset.health_report[0]), dataset.health_report
    found, clean = read_all(dataset), read_naively(write_content(root, clean_content()))
    assert sum(map(len, found.values())) == left
    assert all(_close(row, clean[file]) for file, rows in found.items() for row in rows)


def _close(row: tuple, rows: list[tuple]) -> bool:
    return any(row[4:] == other[4:] and np.allclose(row[:4], other[:4]) for other in rows)


UNREADABLE = {
    "Latin-1": (json.dumps(changed("categories", 0, name="Größe"), ensure_ascii=False).encode("latin1"), "Gr.*UTF-8"),
    "deeply nested": (b'{"images": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "a list": ([clean_content()], "a list, expected an object"),
    "images are a dict": (with_top(images={"1": clean_content()["images"][0]}), "images is .*, expected a list"),
    "truncated": (json.dumps(clean_content()).encode()[:-9], "or truncated: .*line 1"),
    "empty": (b"", "or truncated: .*line 1"),
    "not JSON": (b"<html>", "or truncated: .*line 1"),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("health", ["error", "warn"])
def test_what_is_not_coco_json_is_a_one_line_error(root, content, message, health):
    write_content(root, content)
    with pytest.raises(DataError, match=f"{root}/annotations.json: not COCO annotations.*{message}"):
        open_set(root, health=health)


def test_errors_and_repairs_are_reported_in_one_line_each(root):
    content = changed("annotations", bbox=lambda a: [None] * 4 if a["id"] > 2 else a["bbox"])
    content["images"][0]["width"] = None
    content["annotations"][0]["area"] = 0
    dataset = open_set(write_content(root, content), health="warn")
    left_out, repaired = dataset.health_report
    assert "(id 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)" in left_out
    assert "(id 1)" in repaired and "height" in repaired and "area" in repaired


@pytest.fixture
def large_files(monkeypatch) -> None:
    """Treat files with more than five annotations as very large; only their first two images are checked on opening."""
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


def test_a_copy_in_a_spawned_worker_reads_the_same_samples(root):
    import pickle

    write_content(root, renamed_ids("images", lambda id: f"x{id}"))
    dataset = open_set(root)
    assert read_all(pickle.loads(pickle.dumps(dataset))) == read_all(dataset)


def test_wrong_keypoints_are_an_error_or_are_left_out(root):
    content = changed("annotations", keypoints=[9, 9, 2, 12, 12, 1], num_keypoints=2)
    for category in content["categories"]:
        category |= {"keypoints": ["a", "b"], "skeleton": [["a", "b"]]}
    write_content(root, content)
    dataset = open_set(root, keypoints=True)
    assert dataset.health_report == [] and dataset.meta.skeleton.bones == ((0, 1),)
    for wrong in ([9, 9, 3, 12, 12, 1], [9, 9, 2], [9, 9, 2, None, 12, 1], [9, 9, 2, float("nan"), 1, 1], "none"):
        content["annotations"][4]["keypoints"] = wrong
        write_content(root, content)
        with pytest.raises(DataError, match=r"keypoints are not three finite numbers .*\(id 5\)"):
            open_set(root, keypoints=True)
        tolerant = open_set(root, keypoints=True, health="warn")
        assert tolerant.health_report[0].startswith(f"{root}/annotations.json: keypoints left out: ")
        sample = tolerant[(0, 1)]
        assert sample["keypoints"][:, :, 2].tolist() == [[2, 1], [0, 0], [2, 1]]


@pytest.mark.parametrize("name", ["none.png", "a\0b", "x" * 300 + ".png", "..", ""])
def test_a_file_name_without_a_file_is_a_one_line_error(root, name):
    text = outcome(write_content(root, changed("images", 1, file_name=name)))
    assert isinstance(text, str) and len(text.splitlines()) == 1
