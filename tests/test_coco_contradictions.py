"""Contradictory records of COCO files are one-line errors or are left out; files that are not COCO JSON are refused."""

import gzip
import json
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
    rle_of,
    with_top,
    write_content,
    write_images,
)

from chordate.errors import DataError

OBJECTS = 3 * IMAGES


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("reader"))


# Content, error message, and number of objects that remain with health="warn".
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
        r"entries of annotations that are not objects: None \(id no. 1\)",
        11,
    ),
    "image ids repeated": (changed("images", 1, id=1), r"duplicate image ids \(id 1\)", 9),
    "an image without an id": (changed("images", 1, id=None), r"image without an id: None \(id no. 2\)", 9),
    "category ids repeated": (changed("categories", 1, id=1), r"duplicate category ids \(id 1\)", 8),
    "category names repeated": (changed("categories", 1, name="alpha"), r"name of an earlier .*'alpha' \(id 2\)", 8),
    "a category without a name": (changed("categories", 1, name=...), r"category without a name \(id 2\)", 8),
    "no file_name": (changed("images", 1, file_name=...), r"file_name is not the name .*: None \(id 2\)", 9),
    "file_name is empty": (changed("images", 1, file_name=""), r"file_name is not the name .*: '' \(id 2\)", 9),
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
    part = "masks " if left == OBJECTS else ""  # an object stays if only its mask is left out
    assert text.endswith(f'or set health="warn" in the dataset to leave these {part or "records "}out')
    assert len(text.splitlines()) == 1 and len(text) < 600
    dataset = open_set(root, health="warn")
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
    "gzip": (gzip.compress(json.dumps(clean_content()).encode()), "the file is compressed; unpack it"),
    "zip": (b"PK\x03\x04annotations.json", "the file is compressed; unpack it"),
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
