"""Mistakes in panoptic data are errors of one line; values of any type are read or refused."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from panoptic_files import NAMES, edit, reader, write_panoptic

from chordate.errors import DataError
from chordate.structures import IGNORED, DatasetMeta


def set_segment(key: str, value):
    return lambda root: edit(root, lambda c: c["annotations"][0]["segments_info"][0].update({key: value}))


def recolor(root: Path) -> None:
    image = cv2.imread(str(root / "panoptic/0.png"))
    image[0, 0] = (0, 2, 1)
    cv2.imwrite(str(root / "panoptic/0.png"), image)


MISTAKES = [
    (set_segment("category_id", 8), r"segment 70000 of 0\.png has category_id 8, .* not in categories \(9 sky, 4 cat,"),
    (set_segment("id", 123), r"panoptic/0\.png: pixels have the segment id 70000, which is not in panoptic\.json"),
    (recolor, r"panoptic/0\.png: pixels have the segment id 513, which is not in panoptic\.json"),
    (
        lambda root: edit(root, lambda c: c["annotations"][0]["segments_info"].append({"id": 77, "category_id": 4})),
        r"panoptic\.json: segment 77 of 0\.png has no pixel in .*0\.png",
    ),
    (set_segment("id", 0), r"segment 0 of 0\.png: its id must be an integer 1 … 16777215, .*; 0 marks pixels without"),
    (set_segment("id", -5), r"segment -5 of 0\.png: its id must be an integer 1 … 16777215"),
    (set_segment("id", 10**20), r"segment 1(0){20} of 0\.png: its id must be an integer 1 … 16777215"),
    (
        lambda root: edit(root, lambda c: [i.update(id=i["id"] + 10**20) for i in c["images"]]),
        r"panoptic\.json: image 1\.jpg has the id 1(0){18}49; an id must be an integer of at most 9223372036854775807",
    ),
    (
        lambda root: edit(root, lambda c: [i.update(id=f"a{i['id']}") for i in c["images"]]),
        r"0\.png belongs to image_id 50, which is not in images",
    ),
    (
        lambda root: edit(root, lambda c: c["images"][1].update(id="a49")),
        r"image 1\.jpg has the id 'a49', but other ids are integers; make all ids text, or all integers",
    ),
    (
        lambda root: edit(root, lambda c: c["images"][1].update(id=4.5)),
        r"image 1\.jpg has the id 4\.5; an id must be an integer",
    ),
    (
        lambda root: edit(root, lambda c: c["categories"][0].update(id=10**20)),
        "category sky has the id 1(0){20}; an id",
    ),
    (
        lambda root: edit(
            root, lambda c: c["annotations"].append({**c["annotations"][0], "file_name": "x.png", "segments_info": []})
        ),
        r"image_id 50 has two annotations \(0\.png and x\.png\); keep one",
    ),
    (lambda root: edit(root, lambda c: c["categories"][0].update(name=5)), "category 9 has the name 5; a name must be"),
    (lambda root: edit(root, lambda c: c["categories"][0].update(name=None)), "category 9 has the name None; a name"),
    (
        lambda root: edit(root, lambda c: c["categories"][0].update(color=[1, 2])),
        r"category sky has the color \[1, 2\]; give 3 integers 0 … 255",
    ),
    (
        lambda root: edit(root, lambda c: c["categories"][0].update(color="red")),
        "category sky has the color 'red'; give",
    ),
    (
        lambda root: edit(root, lambda c: c["categories"][0].update(color=[300, 0, 0.5])),
        r"category sky has the color \[300, 0, 0\.5\]; give 3 integers 0 … 255",
    ),
    (set_segment("id", 5), r"two segments of 0\.png have the same id"),
    (lambda root: edit(root, lambda c: c["images"].pop(0)), r"0\.png belongs to image_id 50, which is not in images"),
    (lambda root: edit(root, lambda c: c["annotations"].pop(0)), r"image 0\.jpg \(id 50\) has no entry in annotations"),
    (
        lambda root: edit(root, lambda c: c["categories"][1].update(isthing="yes")),
        r"category cat has isthing 'yes'; set it to 1 for things, and to 0 for stuff",
    ),
    (lambda root: edit(root, lambda c: c["categories"][1].update(name="sky")), "two categories have the name sky"),
    (lambda root: edit(root, lambda c: c["categories"][1].update(id=9)), "two categories have the id 9; ids and"),
    (lambda root: edit(root, lambda c: c["categories"].clear()), "categories is empty; list the categories of the"),
    (lambda root: edit(root, lambda c: c["categories"][1].pop("isthing")), r"category cat has no isthing; set it to 1"),
    (lambda root: edit(root, lambda c: c.pop("categories")), r"not COCO's panoptic format: 'categories' is missing"),
    (lambda root: edit(root, lambda c: c["images"].clear() or c["annotations"].clear()), "no images"),
    (lambda root: (root / "panoptic.json").write_text("{"), "not JSON, or truncated"),
    (lambda root: (root / "panoptic/0.png").unlink(), r"0\.png: no such panoptic file"),
    (lambda root: (root / "panoptic/0.png").write_bytes(b"no"), r"0\.png: not a readable image"),
    (lambda root: (root / "panoptic").rename(root / "moved"), r"panoptic: no such folder"),
    (lambda root: cv2.imwrite(str(root / "panoptic/0.png"), np.zeros((32, 40), np.uint8)), "not an RGB PNG"),
    (
        lambda root: cv2.imwrite(str(root / "panoptic/0.png"), np.zeros((40, 32, 3), np.uint8)),
        r"panoptic/0\.png: 32×40, but its image 0\.jpg is 40×32",
    ),
    (
        lambda root: edit(root, lambda c: c["images"][0].update(height=99)),
        r"0\.jpg: the image is 40×32, but the annotations say 40×99",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_in_panoptic_data_is_one_line_with_both_sides(tmp_path, spoil, message):
    write_panoptic(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        reader(tmp_path).read(1)
    assert "\n" not in str(caught.value)


HOSTILE = [
    None, True, -1, 0, 1.5, 2**70, -(2**70), 1e400, "", "a", "5", "\ud800", "a\0b", "x" * 5000, [], [None], ["a"], [[]],
    {}, {"id": 1}, "../../etc/passwd", "é" * 300,
]  # fmt: skip


def places(value, path=()):
    """The path of every value in nested lists and dicts."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(content, path, value):
    content = json.loads(json.dumps(content))
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return content


def samples(root: Path) -> list[dict]:
    dataset = reader(root)
    return [dataset.read(index) for index in range(len(dataset))]


def test_any_value_of_any_type_is_read_or_is_one_line(tmp_path):
    content = write_panoptic(tmp_path)
    refused = 0
    # Only values in the first item of each list are replaced.
    for path in [place for place in places(content) if not {1, 2, 3, 4} & set(place)]:
        for value in HOSTILE:
            (tmp_path / "panoptic.json").write_text(json.dumps(replaced(content, path, value)))
            try:
                samples(tmp_path)
            except DataError as error:
                refused += 1
                assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000, (path, value)
    assert refused > 400


def test_numbers_as_text_and_nulls_are_read_like_numbers(tmp_path):
    content = write_panoptic(tmp_path)
    want = samples(tmp_path)

    def forms(value):
        return [str(value), float(value)]

    changed = 0
    for path in places(content):
        if path[-1] in ("id", "image_id", "category_id", "height", "width", "iscrowd", "isthing"):
            value = content
            for key in path:
                value = value[key]
            for other in [*forms(value), *([None] if path[-1] == "iscrowd" and not value else [])]:
                (tmp_path / "panoptic.json").write_text(json.dumps(replaced(content, path, other)))
                for ours, expected in zip(samples(tmp_path), want, strict=True):
                    assert ours["info"] == expected["info"], (path, other)
                    for name in ("segments", "segment_labels", "segment_crowd"):
                        assert torch.equal(ours[name], expected[name]), (path, other)
                changed += 1
    assert changed > 60


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (DatasetMeta((*NAMES, "cow"), stuff=("sky", "grass")), "the class cow is only in the model"),
        (DatasetMeta(NAMES[:3], stuff=("sky",)), "the class grass is only in this file"),
        (DatasetMeta(NAMES, stuff=("sky",)), "grass is stuff here, but not in the model"),
    ],
)
def test_a_model_of_other_classes_or_other_stuff_is_refused(tmp_path, meta, message):
    write_panoptic(tmp_path)
    with pytest.raises(DataError, match=message):
        reader(tmp_path, meta=meta)


def test_crowds_alone_are_something_to_train_on_but_no_segments_are_not(tmp_path):
    write_panoptic(tmp_path)
    edit(tmp_path, lambda c: [s.update(iscrowd=1) for a in c["annotations"] for s in a["segments_info"]])
    dataset = reader(tmp_path)
    dataset.check_annotated(training=True)
    assert set(dataset.original(0).targets.labels.unique().tolist()) == {IGNORED, 0, 1, 2, 3}
    edit(tmp_path, lambda c: [a.update(segments_info=[]) for a in c["annotations"]])
    with pytest.raises(DataError, match="no segments, so there is nothing to train on"):
        reader(tmp_path).check_annotated(training=True)


def test_a_file_name_may_be_longer_in_the_unicode_normal_form_of_the_file(tmp_path: Path) -> None:
    """macOS writes letters with accents as two code points (NFD)."""
    write_panoptic(tmp_path, 1)
    (tmp_path / "images/0.jpg").rename(tmp_path / "images" / unicodedata.normalize("NFD", "éééé.jpg"))
    (tmp_path / "panoptic/0.png").rename(tmp_path / "panoptic" / unicodedata.normalize("NFD", "éééé.png"))
    edit(tmp_path, lambda c: c["images"][0].update(file_name=unicodedata.normalize("NFC", "éééé.jpg")))
    edit(tmp_path, lambda c: c["annotations"][0].update(file_name=unicodedata.normalize("NFC", "éééé.png")))
    dataset = reader(tmp_path)
    assert dataset[(0, 0)]["image"].shape == (3, 32, 40)
    image, png = dataset.health_report
    assert "1 file name with backslashes, a path to the folder images, or another Unicode normal form" in image
    assert "the folder panoptic, or another Unicode normal form than the file's, the first: " in png
