"""Reads and checks the JSON file of COCO's panoptic format, and packs it into arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chordate.data.coco_json import read_json
from chordate.errors import DataError
from chordate.structures import DatasetMeta
from chordate.text import printable

MAX_SEGMENT_ID = 256**3 - 1  # ids are RGB colors
MAX_ID = 2**63 - 1


@dataclass
class PanopticIndex:
    """The images of a file in ascending order of id, and their segments. Arrays are shared by forked workers.

    Attributes:
        image_ids: `[len]` int64, or text, as in Cityscapes.
        files: `[len, 2]`, file names of each image and its PNG, relative to their folders.
        sizes: `[len, 2]`, height and width of each image in pixels.
        starts: `[len + 1]`, index of each image's first segment; the last entry is the total number of segments.
        ids: `[segments]` int64, segment ids (the colors in the PNG), ascending within an image.
        categories: `[segments]` int64, category id of each segment.
        crowd: `[segments]` bool, whether each segment is a crowd.
        palette: dict from category id to RGB, for the categories that have a `color`.
        names: dict from category id to name.
        things: ids of the thing categories.
    """

    image_ids: NDArray[np.int64] | NDArray[np.str_]
    files: NDArray[np.str_]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    ids: NDArray[np.int64]
    categories: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    names: dict[int, str]
    things: set[int]
    palette: dict[int, tuple[int, int, int]]

    def meta(self) -> DatasetMeta:
        """The metadata of the dataset: things, then stuff, each in ascending order of category id."""
        order = self.ordered()
        colors = tuple(self.palette[number] for number in order if number in self.palette)
        stuff = tuple(self.names[number] for number in order if number not in self.things)
        return DatasetMeta(
            tuple(self.names[number] for number in order),
            stuff=stuff,
            palette=colors if len(colors) == len(order) else None,
        )

    def ordered(self) -> list[int]:
        """The category ids, things first."""
        return sorted(self.names, key=lambda number: (number not in self.things, number))


def read_panoptic_json(path: Path) -> PanopticIndex:
    """Read and check a JSON file in COCO's panoptic format.

    Raises:
        DataError: the file is missing or has another format; an id is not unique or out of range; an image id or
            category id is used but not defined; or a category's name or color is invalid.
    """
    content = read_json(path, "JSON")
    try:
        names, things, palette = _categories(content["categories"], path)
        return _index(path, _sorted_images(content["images"], path), content["annotations"], names, things, palette)
    except (KeyError, TypeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: not COCO's panoptic format: {reason}") from error


def _categories(
    records: Sequence[dict[str, Any]], path: Path
) -> tuple[dict[int, str], set[int], dict[int, tuple[int, int, int]]]:
    """Names, things and colors of the categories, by id."""
    for record in records:
        name, color = record["name"], record.get("color")
        if not isinstance(name, str):
            raise DataError(f"{path}: category {record['id']} has the name {name!r}; a name must be text in quotes")
        _check_id(record["id"], f"category {printable(name)}", path)
        if color and not (isinstance(color, list) and len(color) == 3 and all(map(_is_byte, color))):
            raise DataError(
                f"{path}: category {printable(name)} has the color {printable(repr(color))}; give 3 integers 0 … 255 "
                f"(RGB), or leave it out"
            )
    names = {record["id"]: record["name"] for record in records}
    if not names:
        raise DataError(f"{path}: categories is empty; list the categories of the segments")
    for field in ("id", "name"):
        values = [record[field] for record in records]
        if repeated := [value for value in values if values.count(value) > 1]:
            raise DataError(
                f"{path}: two categories have the {field} {printable(str(repeated[0]))}; it must be distinct"
            )
    for record in records:
        if record.get("isthing") not in (0, 1):
            got = f"isthing {printable(repr(record['isthing']))}" if "isthing" in record else "no isthing"
            raise DataError(
                f"{path}: category {printable(record['name'])} has {got}; set it to 1 for things, and to 0 for stuff"
            )
    things = {record["id"] for record in records if record["isthing"]}
    return names, things, {record["id"]: tuple(record["color"]) for record in records if record.get("color")}


def _index(
    path: Path,
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    names: dict[int, str],
    things: set[int],
    palette: dict[int, tuple[int, int, int]],
) -> PanopticIndex:
    """Pack the records into arrays; `images` are sorted by id."""
    by_image: dict[int | str, dict[str, Any]] = {}
    for record in annotations:
        first = by_image.setdefault(record["image_id"], record)
        if first is not record:
            pair = f"{first['file_name']} and {record['file_name']}"
            raise DataError(f"{path}: image_id {record['image_id']} has two annotations ({pair}); keep one")
    if orphans := by_image.keys() - {image["id"] for image in images}:
        orphan = next(number for number in by_image if number in orphans)
        file = by_image[orphan]["file_name"]
        raise DataError(f"{path}: {file} belongs to image_id {printable(str(orphan))}, which is not in images")
    if not images:
        raise DataError(f"{path}: no images; there is nothing to load")
    starts, rows, files = [0], [], []
    for image in images:
        annotation = by_image.get(image["id"])
        if annotation is None:
            raise DataError(f"{path}: image {image['file_name']} (id {image['id']}) has no entry in annotations")
        segments = sorted(annotation["segments_info"], key=lambda segment: segment["id"])
        for segment in segments:
            if not (isinstance(segment["id"], int) and 0 < segment["id"] <= MAX_SEGMENT_ID):
                raise DataError(
                    f"{path}: segment {segment['id']!r} of {annotation['file_name']}: its id must be an integer "
                    f"1 … {MAX_SEGMENT_ID}, its color in the PNG; 0 marks pixels without a segment"
                )
            if segment["category_id"] not in names:
                known = ", ".join(f"{number} {printable(name)}" for number, name in list(names.items())[:5])
                raise DataError(
                    f"{path}: segment {segment['id']} of {annotation['file_name']} has category_id "
                    f"{segment['category_id']}, which is not in categories ({known}{' …' if len(names) > 5 else ''})"
                )
            rows.append((segment["id"], segment["category_id"], segment.get("iscrowd", 0)))
        if len({segment["id"] for segment in segments}) < len(segments):
            raise DataError(f"{path}: two segments of {annotation['file_name']} have the same id")
        starts.append(len(rows))
        files.append((image["file_name"], annotation["file_name"]))
    table = np.array(rows, np.int64).reshape(-1, 3)
    sizes = np.array([(image["height"], image["width"]) for image in images])
    image_ids = np.array([image["id"] for image in images])
    if len(np.unique(image_ids)) < len(image_ids):
        raise DataError(f"{path}: several images have the same id")
    columns = table[:, 0].copy(), table[:, 1].copy(), table[:, 2] > 0
    return PanopticIndex(image_ids, np.array(files), sizes, np.array(starts), *columns, names, things, palette)


def _sorted_images(images: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Sort the images by id. Raises DataError unless the ids are all text, or all integers that fit into int64."""
    texts = [image for image in images if isinstance(image["id"], str)]
    if 0 < len(texts) < len(images):
        raise DataError(
            f"{path}: image {texts[0]['file_name']} has the id {printable(repr(texts[0]['id']))}, but other ids are "
            f"integers; make all ids text, or all integers"
        )
    ordered = sorted(images, key=lambda image: image["id"])
    for image in () if texts else ordered:
        _check_id(image["id"], f"image {image['file_name']}", path)
    return ordered


def _check_id(number: Any, owner: str, path: Path) -> None:
    """Raise DataError unless an id is an integer that fits into int64."""
    if not isinstance(number, int) or abs(number) > MAX_ID:
        raise DataError(f"{path}: {owner} has the id {number!r}; an id must be an integer of at most {MAX_ID}")


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= 255
