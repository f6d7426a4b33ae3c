"""Random mutants of a COCO file: each is read as by a naive reader, or raises a one-line DataError."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_mutants import (
    HEIGHT,
    WIDTH,
    clean_content,
    outcome,
    read_naively,
    same,
    write_content,
    write_images,
)  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 0.5, 1.0, 7.0, -0.0, 1e-9, 1e9, 1e300, -1e300, float("nan"), float("inf"),
    2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**30, 10**400, "", " ", "0", "1", "2", " 1 ", "01", "1.0", "-1", "1e3",
    "nan", "x", "ä", "\u0661", "\0", "\ud800", "a" * 300, [], [[]], [None], [1, 2, 3], [1, 2, 3, 4], [-5, -5, 20, 20],
    [70, 50, 30, 30], [5, 5, 0, 9], [5, 5, -9, 9], ["1", "2", "3", "4"], [1, 2, "x", 4], [[1, 2, 3, 4]],
    [[5, 6, 20, 6, 20, 18]], [5, 6, 20, 6, 20, 18], [[5, 6, 20, 6, 20, 18, 3]], [[5, 6, 20, 6, 20, None]], {}, {"a": 1},
    {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]},
    {"size": [WIDTH, HEIGHT], "counts": [100, 4700]}, {"size": [10**9, 10**9], "counts": [0, 5]},
    {"size": [HEIGHT, WIDTH], "counts": "zzzz"}, {"size": [HEIGHT, WIDTH], "counts": "PP"}, {"counts": []},
    [9, 9, 2], [9, 9, 5], "1.png", "2.PNG", "images/1.png", "images\\1.png", "../images/1.png", "/1.png", ".",
]  # fmt: skip
FIELDS = {
    "images": ["id", "file_name", "width", "height", "license", "date_captured"],
    "annotations": [
        "id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints", "num_keypoints",
    ],
    "categories": ["id", "name", "supercategory", "keypoints", "skeleton"],
}  # fmt: skip


def mutate(random: np.random.Generator) -> bytes:
    """The clean file with one to three mutations of its records, and sometimes of its bytes."""
    content = clean_content()
    for _ in range(random.integers(1, 4)):
        kind = str(random.choice(list(FIELDS)))
        if not isinstance(records := content.get(kind), list) or not records:
            continue
        record, place = records[random.integers(len(records))], int(random.integers(len(records)))
        value = VALUES[random.integers(len(VALUES))]
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


def check_mutants(root: Path, seed: int, count: int) -> int:
    """Check mutants; returns how many of them could be opened."""
    random, opened = np.random.default_rng(seed), 0
    for number in range(count):
        data = mutate(random)
        settings: dict[str, Any] = {"health": "error" if number % 3 else "warn", "masks": number % 2 == 0}
        write_content(root, data)
        try:
            result = outcome(root, **settings)
        except BaseException as error:
            raise AssertionError(f"mutant {number} of seed {seed}, {settings}: {data!r}") from error
        if isinstance(result, str):
            assert len(result.splitlines()) == 1 and len(result) < 1500, result
            continue
        opened += 1
        if settings["health"] == "warn":
            continue  # the dataset may leave out records; the naive reader does not
        try:
            want = read_naively(root)
        except Exception as error:
            raise AssertionError(f"the referee refuses mutant {number} of seed {seed}: {data!r}") from error
        assert same(result, want), f"mutant {number} of seed {seed}: {data!r}: {result}, not {want}"
    return opened


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("mutants"))


def test_two_hundred_mutants(root):
    assert check_mutants(root, 0, 200) > 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_thousands_of_mutants(root, seed):
    assert check_mutants(root, seed, 500) > 150
