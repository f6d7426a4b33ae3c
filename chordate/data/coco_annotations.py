"""Opens COCO annotation files and checks them for errors.

A clean file is opened by hotcoco alone. A file that hotcoco refuses, or that fails a check, is first
normalized by `coco_normalize`.
"""

import logging
import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hotcoco

from chordate.data.annotation_reader import UNUSABLE_POLYGON, AnnotationReader
from chordate.data.coco_geometry import MIN_SIDE
from chordate.data.coco_json import read_json
from chordate.data.coco_normalize import is_file_name, normalize
from chordate.data.coco_records import load_annotations, load_images
from chordate.data.file_ids import MAX_ID, id_in_file
from chordate.data.file_listing import FileListing
from chordate.data.findings import Findings, Health, name_annotation, with_ids
from chordate.data.paths import missing_file
from chordate.data.pixel_limit import MAX_PIXELS
from chordate.errors import ConfigError, DataError, MissingFile, UnknownClass, unknown
from chordate.text import pluralize

# The codes of hotcoco's warnings about boxes, which `_box_report` summarizes; its other warnings are ignored.
_BOX_WARNINGS = ("degenerate_bbox", "bbox_out_of_bounds")
# In a file with more annotations and images than this, only the annotations of the first CHECKED_IMAGES images are
# checked on opening (seconds instead of tens of seconds for COCO's train2017), the others when they are read.
CHECKED_ANNOTATIONS, CHECKED_IMAGES = 300_000, 2_000
log = logging.getLogger("chordate")
ALL = 2**63 - 1  # the largest possible image id: all images were checked
WRONG_FLAG = re.compile(rb'"iscrowd"\s*:\s*(?:[^01tf\s]|[01][0-9.eE])')  # hotcoco reads 2, -1, … as 1
LIST_OR_ID = re.compile(rb'"(?:(images|annotations|categories|licenses)"\s*:\s*\[|id"\s*:\s*(\d+)|(image_id)")')
MAX_SEARCHED = 2**27  # bytes; a larger file is not searched for what hotcoco warns of: train2017 would take a second


@dataclass(frozen=True)
class OpenedAnnotations:
    """An opened and checked annotation file.

    Attributes:
        coco: the annotations.
        report: problems that are not errors, one line each.
        reader: the AnnotationReader that has read the checked annotations.
        checked: the largest id of the images whose annotations were checked; `ALL` if all were checked.
    """

    coco: hotcoco.COCO
    report: list[str]
    reader: AnnotationReader
    checked: int


def open_index(path: Path) -> hotcoco.COCO | None:
    """Open an annotation file. Returns None for a file that must be normalized: it is not a JSON object, hotcoco
    refuses it, or hotcoco would print a warning about it.

    Raises:
        DataError: the file does not exist.
    """
    if not path.is_file():
        raise MissingFile(missing_file(path, "annotation"))
    with open(path, "rb") as file:
        if not file.read(100).lstrip().startswith(b"{"):  # hotcoco would accept a list, too
            return None
    if path.stat().st_size <= MAX_SEARCHED and _has_warnings(path):
        return None
    try:
        return hotcoco.COCO(str(path))
    except ValueError:
        return None


def _has_warnings(path: Path) -> bool:
    """Whether hotcoco would print a warning about a file: an id occurs twice in a list, an annotation has no id, or a
    number is NaN or infinite. The text is searched without decoding the JSON.

    Ids in nested objects and NaN in strings also count; the file is then normalized, which takes longer but gives the
    same result.
    """
    ids: set[bytes] = set()
    annotations = 0  # in the current list
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"NaN") >= 0 or data.find(b"Infinity") >= 0:
            return True
        for match in LIST_OR_ID.finditer(data):
            if match[1]:
                if annotations > len(ids):
                    return True
                ids.clear()
                annotations = 0
            elif match[3]:
                annotations += 1
            elif match[2] in ids:
                return True
            else:
                ids.add(match[2])
    return annotations > len(ids)


def check_annotations(
    index: hotcoco.COCO | None, path: Path, images: FileListing, health: Health, whole: bool = False
) -> OpenedAnnotations:
    """Check annotations, and normalize them if they are not clean.

    Args:
        index: the opened annotations; None if the file `path` must be normalized.
        path: the annotation file, or the folder of annotation files that were converted to `index`.
        images: the folder that the file names are relative to.
        health: "error" raises on invalid records, such as annotations of unknown images or categories, boxes that are
            not four finite numbers, and RLEs that differ in size from the image; "warn" leaves these records out (of
            an object with an invalid RLE or invalid keypoints, only the RLE or the keypoints).
        whole: whether to check all annotations, also of a very large file.

    Raises:
        ConfigError: `health` is neither "error" nor "warn".
        DataError: `health` is "error" and there are invalid records, or the file is not COCO JSON.
    """
    if health not in ("error", "warn"):
        raise ConfigError(unknown("health", str(health), ("error", "warn")))
    source, clean, checked = str(path), False, ALL
    if index is not None:
        report = index.healthcheck()
        clean = not report["errors"] and _is_plain(index, path, images)
        if clean:
            reader, checked, thin = _read_annotations(index, whole)
            clean = not reader.findings
    if index is None or not clean:
        content = read_json(path) if index is None or path.is_file() else index.dataset
        content, reader = normalize(content, source, images)
        index, checked = _index(content, source, reader.findings, health), ALL
        thin = {annotation["id"] for annotation in content["annotations"] if _is_thin(annotation)}
        report = index.healthcheck()
    lines = reader.findings.lines(source, health) + _check_fractions(index, source, health)
    boxes = {id for w in report["warnings"] if w["code"] in _BOX_WARNINGS for id in w["affected_ids"]}
    if dropped := _box_report(index, sorted(boxes | thin)):
        lines.append(f"{source}: {dropped}")
    return OpenedAnnotations(index, lines, reader, checked)


def _is_plain(index: hotcoco.COCO, path: Path, images: FileListing) -> bool:
    """Whether the names, sizes, ids and crowd flags of a file that hotcoco accepts can be used as they are."""
    image_ids, category_ids, annotation_ids = index.get_img_ids(), index.get_cat_ids(), index.get_ann_ids()
    names = [category["name"] for category in index.load_cats(category_ids)]
    if index.load_warnings or len(set(names)) < len(names):
        return False
    if any(ids and max(ids) > MAX_ID for ids in (image_ids, category_ids, annotation_ids)):
        return False
    for record in load_images(index, image_ids):
        name = record["file_name"]
        if not name or "\\" in name or not is_file_name(name) or images.find(name) != name:
            return False
        if min(record["height"], record["width"]) < 1 or record["height"] * record["width"] > MAX_PIXELS:
            return False
    return not (path.is_file() and index.get_ann_ids(iscrowd=True) and _has_wrong_flags(path))


def _has_wrong_flags(path: Path) -> bool:
    """Whether a file has an `iscrowd` other than 0 and 1. hotcoco reads every other integer as 1."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return WRONG_FLAG.search(data) is not None


def _read_annotations(index: hotcoco.COCO, whole: bool) -> tuple[AnnotationReader, int, set[int]]:
    """Check the annotations of a clean file; returns the reader, the largest id of the checked images, and the ids of
    the annotations with thin boxes."""
    ids, image_ids, checked = index.get_ann_ids(), sorted(index.get_img_ids()), ALL
    if len(ids) > CHECKED_ANNOTATIONS and len(image_ids) > CHECKED_IMAGES and not whole:
        image_ids = image_ids[:CHECKED_IMAGES]
        ids, checked = index.get_ann_ids(img_ids=image_ids), image_ids[-1]
    sizes = {image["id"]: (image["height"], image["width"]) for image in load_images(index, image_ids)}
    reader, thin = AnnotationReader(keypoint_counts(index), Findings()), set()
    for annotation in load_annotations(index, ids):
        size = sizes[annotation["image_id"]]
        fields = reader.read(annotation, id_in_file(annotation), annotation["category_id"], size)
        if fields is not None and _is_thin(fields):
            thin.add(annotation["id"])
    return reader, checked, thin


def _is_thin(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation has a box with an area, but a side below MIN_SIDE; hotcoco does not warn of it."""
    return 0 < min(annotation.get("bbox", ())[2:], default=0) < MIN_SIDE


def missing_masks(opened: OpenedAnnotations, category_ids: Sequence[int], source: str) -> list[str]:
    """Report how many objects of the given categories have no usable mask: a list of one line, empty if all have one.

    In a very large file, only the objects of the images that were checked on opening are counted. If none of them has
    a usable mask, the other objects are read until one with a mask is found.

    Raises:
        DataError: no object has a usable mask.
    """
    reader, used, images = opened.reader, set(category_ids), ""
    ids = [id for category, id in reader.without_mask if category in used]
    total = sum(reader.instances[category] for category in category_ids)
    none = len(ids) == total
    if opened.checked < ALL:
        images = f" of the first {CHECKED_IMAGES:,} images"
        if none and not _has_later_mask(opened, category_ids):
            total = len(opened.coco.get_ann_ids(cat_ids=list(category_ids), iscrowd=False))
        else:
            none = False
    if ids and none:
        reason = reader.findings.describe(UNUSABLE_POLYGON)
        objects = f"{pluralize(total, 'object')}, the first: {name_annotation(ids[0])}{reason and f'; {reason}'}"
        raise DataError(f"{source}: no object has a usable mask ({objects}); add masks, or set masks=False")
    line = f"{source}: {len(ids)} of {total} objects{images} have no usable mask, so they are trained on without one"
    return [with_ids(line, ids)] if ids else []


def _has_later_mask(opened: OpenedAnnotations, category_ids: Sequence[int]) -> bool:
    """Whether an object of an image that was not checked has a usable mask."""
    index, reader = opened.coco, AnnotationReader(opened.reader.keypoint_counts, Findings())
    for annotation in load_annotations(index, index.get_ann_ids(cat_ids=list(category_ids), iscrowd=False)):
        if annotation["image_id"] > opened.checked:
            image = index.load_imgs([annotation["image_id"]])[0]
            size = image["height"], image["width"]
            reader.read(annotation, id_in_file(annotation), annotation["category_id"], size)
            if sum(reader.instances.values()) > len(reader.without_mask):
                return True
    return False


def choose_categories(
    index: hotcoco.COCO, classes: Sequence[str] | None, source: str
) -> tuple[list[int], tuple[str, ...]]:
    """Choose the categories to use; returns their ids and names, each in the order of the labels.

    Args:
        index: the annotations.
        classes: names of categories; None for all.
        source: the file's name, for messages.

    Raises:
        DataError: there are no categories or no classes, a class is listed twice or is not a category.
    """
    categories = index.load_cats(sorted(set(index.get_cat_ids())))
    if not categories:
        raise DataError(f"{source}: the file has no categories, so there is nothing to train on")
    by_name = {category["name"]: category["id"] for category in categories}
    if len(by_name) < len(categories):
        raise DataError(f"{source}: several categories have the same name; rename them")
    names = list(by_name) if classes is None else list(classes)
    for name in names:
        if name not in by_name:
            raise UnknownClass(f"{source}: {unknown('class', name, by_name)}")
    if classes is None:
        return [category["id"] for category in categories], tuple(c["name"] for c in categories)
    if len(names) < len(categories):
        log.info(f"{source}: {len(names)} of its {len(categories)} classes are used")
    if not names or len(set(names)) < len(names):
        raise DataError(f"classes={names}: list at least one class, each once")
    return [by_name[name] for name in names], tuple(names)


def keypoint_counts(index: hotcoco.COCO) -> dict[int, int]:
    """The number of keypoints of each category that has keypoint names, by category id."""
    return {c["id"]: len(c["keypoints"]) for c in index.load_cats(index.get_cat_ids()) if c.get("keypoints")}


def _index(content: dict[str, Any], source: str, findings: Findings, health: Health) -> hotcoco.COCO:
    """Open normalized content with hotcoco."""
    try:
        return hotcoco.COCO(content)
    except ValueError as error:
        findings.lines(source, health)  # raises a clearer error if `health` is "error" and the problem is known
        raise DataError(f"{source}: not COCO annotations: {error}") from error


def _check_fractions(index: hotcoco.COCO, source: str, health: Health) -> list[str]:
    """A list of one line if the first boxes have only coordinates ≤ 1, as in YOLO's files, else an empty list.

    Raises:
        DataError: they have, and `health` is "error".
    """
    boxes = [a["bbox"] for a in index.load_anns(index.get_ann_ids()[:100]) if a.get("bbox")]
    if not boxes or any(max(x + w, y + h) > 1 for x, y, w, h in boxes):
        return []
    first = ", ".join(f"{side:g}" for side in boxes[0])
    line = (
        f"{source}: boxes seem to be fractions of the image size ({first}); COCO's are in pixels: x, y, width, height"
    )
    if health == "error":
        raise DataError(f'{line}. Multiply them by the size; if they are pixels, set health="warn" in the dataset')
    return [line]


def _box_report(index: hotcoco.COCO, ids: list[int]) -> str:
    """One line: how many boxes are dropped, and how many are clipped to their images.

    Args:
        index: the annotations.
        ids: ids of the annotations whose boxes are degenerate or thin, or reach beyond the image.
    """
    clipped: list[Any] = []
    dropped: list[Any] = []
    for annotation in index.load_anns(ids):
        image = index.load_imgs([annotation["image_id"]])[0]
        x, y, w, h = annotation["bbox"]
        width = min(x + w, image["width"]) - max(x, 0)
        height = min(y + h, image["height"]) - max(y, 0)
        if min(width, height) < MIN_SIDE:
            dropped.append(id_in_file(annotation))
        elif width < w or height < h:
            clipped.append(id_in_file(annotation))
    parts = [
        with_ids(f"{len(ids)} {'box' if len(ids) == 1 else 'boxes'} {effect}", ids)
        for ids, effect in (
            (dropped, f"with a side below {MIN_SIDE} px in the image dropped"),
            (clipped, "clipped to the image"),
        )
        if ids
    ]
    return ", ".join(parts)
