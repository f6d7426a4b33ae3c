"""Random mutants of a COCO file: each is read as by a naive reader, or raises a one-line DataError.

Boxes, classes, crowds, masks and keypoints are compared. With health="warn", invalid records
are left out, as by the naive reader, and must be reported.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_mutants import HEIGHT, WIDTH, clean_content, open_set, pose_content, write_content, write_images
from naive_coco import NaiveReader, difference, read_dataset

from chordate.errors import DataError

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 0.5, 1.0, 7.0, -0.0, 1e-9, 1e9, 1e300, -1e300, float("nan"), float("inf"),
    2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**30, 10**400, "", " ", "0", "1", "2", " 1 ", "01", "1.0", "-1", "1e3",
    "nan", "x", "ä", "\u0661", "\0", "\ud800", "a" * 300, [], [[]], [None], [1, 2, 3], [1, 2, 3, 4], [-5, -5, 20, 20],
    [70, 50, 30, 30], [5, 5, 0, 9], [5, 5, -9, 9], ["1", "2", "3", "4"], [1, 2, "x", 4], [[1, 2, 3, 4]],
    [[5, 6, 20, 6, 20, 18]], [5, 6, 20, 6, 20, 18], [[5, 6, 20, 6, 20, 18, 3]], [[5, 6, 20, 6, 20, None]], {}, {"a": 1},
    {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]},
    {"size": [WIDTH, HEIGHT], "counts": [100, 4700]}, {"size": [10**9, 10**9], "counts": [0, 5]},
    {"size": [HEIGHT, WIDTH], "counts": "zzzz"}, {"size": [HEIGHT, WIDTH], "counts": "PP"}, {"counts": []},
    [9, 9, 2], [9, 9, 5], [9, 9, 2, 8, 8, 1], ["9", 9, 2, 70.5, 8, 0], [9, 9, 2, 8, 8, 3], [9, None, 2, 8, 8, 1],
    "1.png", "2.PNG", "images/1.png", "images\\1.png", "../images/1.png", "/1.png", ".",
]  # fmt: skip
FIELDS = {
    "images": ["id", "file_name", "width", "height", "license", "date_captured"],
    "annotations": [
        "id",
        "image_id",
        "category_id",
        "bbox",
        "area",
        "iscrowd",
        "segmentation",
        "keypoints",
        "num_keypoints",
    ],
    "categories": ["id", "name", "supercategory", "keypoints", "skeleton"],
}
NAMES = [["head", "tail"], ["head"], ["head", "head"], ["head", 2], "head"]  # mutated keypoint names  # fmt: skip


def mutate(random: np.random.Generator, keypoints: bool = False) -> bytes:
    """The clean file (with keypoints or not) after up to three mutations of its records, and sometimes of its bytes."""
    content = pose_content() if keypoints else clean_content()
    for _ in range(random.integers(1, 4)):
        kind = str(random.choice(list(FIELDS)))
        if not isinstance(records := content.get(kind), list) or not records:
            continue
        record, place = records[random.integers(len(records))], int(random.integers(len(records)))
        values = [*VALUES, *NAMES] if kind == "categories" else VALUES
        value = values[random.integers(len(values))]
        match str(random.choice(["set", "set", "set", "set all", "remove", "repeat", "insert", "whole", "top"])):
            case "set" if isinstance(record, dict):
                record[str(random.choice(FIELDS[kind]))] = value
            case "set all":
                field = str(random.choice(FIELDS[kind]))
                for one in records:
                    if isinstance(one, dict):
                        one[field] = value
            case "remove" if isinstance(record, dict):
                record.pop(str(random.choice(FIELDS[kind])), None)
            case "repeat":
                records.insert(place, json.loads(json.dumps(record)))
            case "insert":
                records.insert(place, value)
            case "whole":
                content[kind] = value
            case "top":
                content[str(random.choice(["info", "licenses", "type"]))] = value
    data = json.dumps(content).encode()
    match int(random.integers(12)):
        case 0:
            data = data[: random.integers(len(data))]
        case 1:
            place = random.integers(len(data))
            data = data[:place] + bytes([random.integers(256)]) + data[place + 1 :]
        case 2:
            data = b"\xef\xbb\xbf" + data
    return data


def check_mutants(root: Path, seed: int, count: int) -> dict[str, int]:
    """Check mutants; returns how many were opened per `health` and option, and how many had records left out."""
    random, opened = np.random.default_rng(seed), Counter[str]()
    for number in range(count):
        settings: dict[str, Any] = {"masks": number % 2 == 0, "keypoints": number % 5 < 2}
        data, health = mutate(random, settings["keypoints"]), "error" if number % 3 else "warn"
        write_content(root, data)
        place = f"mutant {number} of seed {seed}, {health}, {settings}: {data!r}"
        try:
            dataset = open_set(root, health=health, **settings)
            result = read_dataset(dataset)
        except DataError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 1500, error
            continue
        except BaseException as error:
            raise AssertionError(place) from error
        reader = NaiveReader(root, lenient=health == "warn", **settings)
        try:
            want = reader.read()
        except Exception as error:
            raise AssertionError(f"the referee refuses {place}") from error
        different = difference(result, want)
        assert not different, f"{different} in {place}"
        assert not reader.left_out or "left out" in " ".join(dataset.health_report), f"not reported: {place}"
        opened.update([health, *(name for name, used in settings.items() if used)])
        opened["left out"] += reader.left_out > 0
    return opened


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("mutants"))


def test_two_hundred_mutants(root):
    opened = check_mutants(root, 0, 200)
    assert opened["error"] + opened["warn"] > 60
    assert min(opened[kind] for kind in ("error", "warn", "masks", "keypoints")) > 20 and opened["left out"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_thousands_of_mutants(root, seed):
    opened = check_mutants(root, seed, 500)
    assert opened["error"] + opened["warn"] > 150 and opened["left out"] > 15


@pytest.mark.parametrize("health", ["error", "warn"])
def test_the_naive_reader_reads_the_unchanged_file(root, health):
    """All masks and keypoints are compared, and a changed mask or keypoint is detected."""
    settings = {"masks": True, "keypoints": True}
    write_content(root, pose_content())
    ours = read_dataset(open_set(root, health=health, **settings))
    naive = NaiveReader(root, lenient=health == "warn", **settings).read()
    objects = [one for images in naive.values() for one in images]
    assert not difference(ours, naive) and sum(one.mask is not None for one in objects) == 11
    assert all(point[2] for one in objects for point in one.points)
    for field, value in {"segmentation": [[5, 6, 12, 6, 12, 18, 5, 18]], "keypoints": [7, 9, 2, 9, 12, 1]}.items():
        content = pose_content()
        content["annotations"][0][field] = value
        write_content(root, content)
        assert difference(read_dataset(open_set(root, health=health, **settings)), naive)
