"""COCO files of annotation tools are read as by a naive reader; repairs are reported in one line.

Files are made from one clean dict and a mutation. The referee is `coco_mutants.read_naively`.
"""

import json
import re
import unicodedata
from pathlib import Path

import pytest
from coco_mutants import (
    HEIGHT,
    IMAGES,
    WIDTH,
    changed,
    clean_content,
    open_set,
    read_all,
    read_naively,
    rle_of,
    same,
    with_top,
    write_content,
    write_images,
)

from chordate.errors import DataError

OBJECTS = 3 * IMAGES


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("reader"))


def renamed_ids(kind: str, rename) -> dict:
    """The clean content with other ids of images or categories."""
    content, field = clean_content(), {"images": "image_id", "categories": "category_id"}[kind]
    for record in content[kind]:
        record["id"] = rename(record["id"])
    for annotation in content["annotations"]:
        annotation[field] = rename(annotation[field])
    return content


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
    """The referee's objects; of the clean content if the referee cannot read `content` (huge integers, UTF-16)."""
    if isinstance(content, bytes) and (b"9" * 99 in content or content.startswith(b"\xff\xfe")):
        content = clean_content()
    return read_naively(write_content(root, content))


WITHOUT_BOX = {
    "missing": changed("annotations", bbox=...),
    "null or empty": changed("annotations", bbox=lambda a: [] if a["id"] % 2 else None),
}


@pytest.mark.parametrize("content", WITHOUT_BOX.values(), ids=WITHOUT_BOX)
def test_missing_boxes_are_the_bounds_of_the_masks_and_are_reported(root, content):
    write_content(root, content)
    dataset = open_set(root)
    assert same(read_all(dataset), _naive(root, content))
    (line,) = dataset.health_report
    assert re.search(r"no bbox, replaced by the bounds of the mask \(id 1, .*12 in all\)", line)


REPAIRED = {
    "annotation ids repeated": (changed("annotations", id=1), r"duplicate annotation ids, .* \(id 1, .*11 in all\)"),
    "no annotation ids": (changed("annotations", id=...), r"annotations without an id.*12 in all"),
    "annotation ids are null": (changed("annotations", id=None), r"annotations without an id.*12 in all"),
    "no size": (changed("images", width=..., height=...), r"without a height and width.*\(id 1, 2, 3, 4\)"),
    "size is null": (changed("images", width=None, height=None), r"without a height and width.*\(id 1, 2, 3, 4\)"),
    "size is 0": (
        changed("images", 1, width=0),
        r"impossible height or width, .* height 60, width 0, but the file has 60 and 80 \(id 2\)",
    ),
    "size is negative": (changed("images", 1, width=-80), r"impossible height .* width -80, but .* 60 and 80 \(id 2\)"),
    "size is text": (changed("images", 1, height="high"), r"impossible height .*: height 'high', .* \(id 2\)"),
    "size is NaN": (changed("images", 1, height=float("nan")), r"impossible height .*: height nan, .* \(id 2\)"),
    "size is a million": (
        changed("images", 1, width=10**6, height=10**6),
        r"impossible height or width, .*: height 1000000, width 1000000, but the file has 60 and 80 \(id 2\)",
    ),
    "size is above the limit": (changed("images", 1, width=20_000, height=20_000), r"impossible .* \(id 2\)"),
    "size is huge": (changed("images", 1, width=2**31, height=2**31), r"impossible .* width 2147483648, .*\(id 2\)"),
    "backslashes": (changed("images", file_name=lambda i: f".\\{i['id']}.png"), r"backslashes.*\(id 1, 2, 3, 4\)"),
    "Windows, under the image folder": (
        changed("images", file_name=lambda i: f"images\\{i['id']}.png"),
        r"backslashes.*\(id 1, 2, 3, 4\)",
    ),
    "image folder in the names": (
        changed("images", file_name=lambda i: f"images/{i['id']}.png"),
        r"a path to the folder images, which is left out: 'images/1.png' \(id 1, 2, 3, 4\)",
    ),
    "image folder in the name of one image": (
        changed("images", 2, file_name="images/3.png"),
        r"a path to the folder images, which is left out: 'images/3.png' \(id 3\)",
    ),
    "backslash in the name of one image": (changed("images", 2, file_name=".\\3.png"), r"backslashes.*\(id 3\)"),
    "absolute paths of another machine": (
        changed("images", slice(2, 4), file_name=lambda i: f"C:\\data\\images\\{i['id']}.png"),
        r"backslashes, .*\(id 3, 4\)",
    ),
    "area is negative": (changed("annotations", 3, area=-5), r"area is not a positive number.*\(id 4\)"),
    "area is 0": (changed("annotations", 3, area=0), r"area is not a positive number.*\(id 4\)"),
    "area is NaN": (changed("annotations", 3, area=float("nan")), r"area is not a positive number.*\(id 4\)"),
    "flat polygon": (changed("annotations", 2, segmentation=flat), r"one polygon without the list.*\(id 3\)"),
    "polygon of two points": (
        changed("annotations", 2, segmentation=[[5, 6, 14, 15]]),
        r"polygon .*ignored: .* \(id 3\)",
    ),
    "odd polygon": (
        changed("annotations", 2, segmentation=lambda a: [[*flat(a), 3]]),
        r"polygon .*ignored: .* \(id 3\)",
    ),
    "polygon with null": (changed("annotations", 2, segmentation=[[5, 6, None, 9, 1, 2]]), r"polygon .*\(id 3\)"),
    "polygon is text": (changed("annotations", 2, segmentation="5 6 14 15"), r"polygon .*ignored: .* \(id 3\)"),
    "polygon without area": (changed("annotations", 2, segmentation=[[5, 6] * 4]), r"polygon .*ignored: .* \(id 3\)"),
    "bad skeleton": (changed("categories", 0, keypoints=["a", "b"], skeleton=[["a", "c"]]), r"skeleton .*\(id 1\)"),
}


@pytest.mark.parametrize(("content", "report"), REPAIRED.values(), ids=REPAIRED)
def test_repairs_change_no_box_and_are_reported_in_one_line(root, content, report):
    write_content(root, content)
    dataset = open_set(root)
    assert same(read_all(dataset), read_naively(write_content(root, _without(content, "segmentation"))))
    (line,) = dataset.health_report
    assert line.startswith(f"{root}/annotations.json: ") and re.search(report, line), line


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_file_name_may_have_another_unicode_normal_form(tmp_path, form):
    """Files from macOS have decomposed letters (NFD)."""
    root, other = write_images(tmp_path), {"NFC": "NFD", "NFD": "NFC"}[form]
    (root / "images/2.png").rename(root / "images" / unicodedata.normalize(form, "été 2.png"))
    content = changed("images", 1, file_name=unicodedata.normalize(other, "été 2.png"))
    dataset = open_set(write_content(root, content))
    assert len(dataset[(0, 1)]["boxes"]) == 3
    (line,) = dataset.health_report
    assert "file_name in another Unicode normal form than the file's: 'é" in unicodedata.normalize("NFC", line)


def test_absolute_paths_that_lead_to_the_same_file_are_an_error(root):
    content = changed("images", slice(0, 2), file_name=lambda i: f"/data/set {i['id']}/images/1.png")
    write_content(root, content)
    names = r"/data/set 1/images/1\.png and /data/set 2/images/1\.png"
    message = rf"annotations\.json: the file names {names} both lead to .*images/1\.png; correct them$"
    with pytest.raises(DataError, match=message):
        open_set(root)


def test_a_category_without_annotations_and_with_the_name_of_another_is_ignored(root):
    """Roboflow writes such a category first."""
    clean = read_all(open_set(write_content(root, clean_content())))
    for place, id in ((0, 0), (3, 7)):
        content = clean_content()
        content["categories"].insert(place, {"id": id, "name": "beta", "supercategory": "none"})
        dataset = open_set(write_content(root, content))
        assert dataset.classes == ("alpha", "beta", "gamma") and read_all(dataset) == clean
        (line,) = dataset.health_report
        assert f"with the name of another category, which are ignored: 'beta' (id {id})" in line


def _without(content: dict, field: str) -> dict:
    """The content without the annotations' `field`, whose values the referee cannot read."""
    annotations = [{k: v for k, v in a.items() if k != field} for a in content["annotations"]]
    return content | {"annotations": annotations}


def test_a_copy_in_a_spawned_worker_reads_the_same_samples(root):
    import pickle

    write_content(root, renamed_ids("images", lambda id: f"x{id}"))
    dataset = open_set(root)
    assert read_all(pickle.loads(pickle.dumps(dataset))) == read_all(dataset)
