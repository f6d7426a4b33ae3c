"""Reads and checks the JSON file of COCO's panoptic format, and packs it into arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chordate.data.annotation_reader import quote
from chordate.data.coco_geometry import parse_flag, parse_side
from chordate.data.coco_json import read_json
from chordate.data.coco_normalize import is_file_name, parse_text
from chordate.data.file_ids import parse_id
from chordate.data.pixel_limit import MAX_PIXELS, too_many_pixels
from chordate.errors import DataError
from chordate.structures import DatasetMeta
from chordate.text import printable

MAX_SEGMENT_ID = 256**3 - 1  # ids are RGB colors
MAX_INT64 = 2**63 - 1
Record = Mapping[str, Any]


@dataclass
class PanopticIndex:
    """The images of a COCO panoptic JSON file, in ascending order of id, and their segments.

    Arrays are shared by forked workers.

    Attributes:
        image_ids: `[images]` int64, ids of the images; 0, 1, … in sorted order if the ids are text, as in Cityscapes.
        file_ids: list of the images' ids as in the file.
        files: `[images, 2]`, file names of each image and its PNG, relative to their folders.
        sizes: `[images, 2]`, height and width of each image in pixels.
        starts: `[images + 1]`, index of each image's first segment; the last entry is the total number of segments.
        ids: `[segments]` int64, segment ids (the colors in the PNG), ascending within an image.
        categories: `[segments]` int64, category id of each segment.
        crowd: `[segments]` bool, whether each segment is a crowd.
        palette: dict from category id to RGB, for the categories that have a `color`.
        names: dict from category id to name.
        things: ids of the thing categories.
    """

    image_ids: NDArray[np.int64]
    file_ids: list[int | str]
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

    def select(self, kept: NDArray[np.bool_]) -> Self:
        """The PanopticIndex of the images for which `kept` `[images]` bool is true."""
        counts = np.diff(self.starts)
        segments = np.repeat(kept, counts)
        return replace(
            self,
            image_ids=self.image_ids[kept],
            file_ids=[number for number, is_kept in zip(self.file_ids, kept) if is_kept],
            files=self.files[kept],
            sizes=self.sizes[kept],
            starts=np.concatenate([[0], counts[kept].cumsum()]),
            ids=self.ids[segments],
            categories=self.categories[segments],
            crowd=self.crowd[segments],
        )


def read_panoptic_json(path: Path) -> PanopticIndex:
    """Read and check a JSON file in COCO's panoptic format. Numbers may be text, and `iscrowd` may be null.

    Raises:
        DataError: the file is missing, has another format, or has no images or categories; an id is not unique or out
            of range; image ids are partly text, partly integers; an image has no entry in `annotations`; an image id or
            category id is used but not defined; or a name, size, color or flag is invalid.
    """
    content = read_json(path, "JSON")
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: not COCO's panoptic format: {_kind(content)}, expected an object")
    names, things, palette = _categories(_records(content, "categories", path), path)
    images = _images(_records(content, "images", path), path)
    keys = _sorted_ids(images, path)
    segments = _annotations(_records(content, "annotations", path), images, names, path)
    if not images:
        raise DataError(f"{path}: no images; there is nothing to load")
    starts, rows, files = [0], [], []
    for key in keys:
        if key not in segments:
            raise DataError(
                f"{path}: image {printable(images[key].file)} (id {quote(images[key].id)}) has no entry in annotations"
            )
        file, own = segments[key]
        rows += own
        starts.append(len(rows))
        files.append((images[key].file, file))
    table = np.array(rows, np.int64).reshape(-1, 3)
    is_text = any(isinstance(key, str) for key in keys)  # "5" becomes an integer, also beside "a"
    return PanopticIndex(
        image_ids=np.arange(len(keys)) if is_text else np.array(keys, np.int64),
        file_ids=[images[key].id for key in keys],
        files=np.array(files),
        sizes=np.array([images[key].size for key in keys], np.int64),
        starts=np.array(starts),
        ids=table[:, 0].copy(),
        categories=table[:, 1].copy(),
        crowd=table[:, 2] > 0,
        names=names,
        things=things,
        palette=palette,
    )


@dataclass(frozen=True)
class _Image:
    """An image record: its id as in the file, its file name, and its height and width in pixels."""

    id: int | str
    file: str
    size: tuple[int, int]


def _records(content: Record, name: str, path: Path) -> list[Record]:
    """The records (JSON objects) in the list `name` of the file."""
    if name not in content:
        raise DataError(f"{path}: not COCO's panoptic format: {name!r} is missing")
    return list(_objects(content[name], name, path))


def _objects(values: Any, name: str, path: Path) -> Iterator[Record]:
    if not isinstance(values, list):
        raise DataError(f"{path}: not COCO's panoptic format: {name} is {_kind(values)}, expected a list")
    for value in values:
        if not isinstance(value, Mapping):
            raise DataError(
                f"{path}: not COCO's panoptic format: {name} contains {_kind(value)}, expected only objects"
            )
        yield value


def _categories(
    records: Sequence[Record], path: Path
) -> tuple[dict[int, str], set[int], dict[int, tuple[int, int, int]]]:
    """Names by category id, ids of the things, and colors by category id."""
    names: dict[int, str] = {}
    things: set[int] = set()
    palette: dict[int, tuple[int, int, int]] = {}
    for record in records:
        name, color = record.get("name"), record.get("color")
        if not isinstance(name, str) or not parse_text(name):
            raise DataError(
                f"{path}: category {quote(record.get('id'))} has the name {quote(name)}; a name must be "
                f"a nonempty JSON string"
            )
        owner = f"category {printable(name)}"
        number = _integer_id(record.get("id"), owner, path)
        if color and not (isinstance(color, list) and len(color) == 3 and all(map(_is_byte, color))):
            raise DataError(
                f"{path}: {owner} has the color {quote(color)}; give 3 integers 0 … 255 (RGB), or leave it out"
            )
        is_thing = None if record.get("isthing") is None else parse_flag(record["isthing"])
        if is_thing is None:
            got = f"isthing {quote(record['isthing'])}" if record.get("isthing") is not None else "no isthing"
            raise DataError(f"{path}: {owner} has {got}; set it to 1 for things, and to 0 for stuff")
        if number in names or name in names.values():
            repeated = f"id {number}" if number in names else f"name {printable(name)}"
            raise DataError(f"{path}: two categories have the {repeated}; ids and names must be unique")
        names[number] = name
        things |= {number} if is_thing else set()
        palette |= {number: (color[0], color[1], color[2])} if color else {}
    if not names:
        raise DataError(f"{path}: categories is empty; list the categories of the segments")
    return names, things, palette


def _images(records: Sequence[Record], path: Path) -> dict[int | str, _Image]:
    """The images by normalized id, in the order of the file."""
    images: dict[int | str, _Image] = {}
    for place, record in enumerate(records, start=1):
        file = _file_name(record.get("file_name"), f"image no. {place}", path)
        key = parse_id(record.get("id"))
        if key is None:
            raise _wrong_id(record.get("id"), f"image {printable(file)}", path)
        height, width = parse_side(record.get("height")), parse_side(record.get("width"))
        if height is None or width is None:
            sides = f"height {quote(record.get('height'))} and width {quote(record.get('width'))}"
            raise DataError(f"{path}: image {printable(file)} has {sides}; give its size in pixels")
        if height * width > MAX_PIXELS:
            raise DataError(f"{path}: image {too_many_pixels(printable(file))}")
        if key in images:
            raise DataError(f"{path}: several images have the same id ({quote(record['id'])})")
        images[key] = _Image(record["id"], file, (height, width))
    return images


def _sorted_ids(images: Mapping[int | str, _Image], path: Path) -> list[int | str]:
    """The normalized ids, sorted as integers if all are integers (possibly written as text), else sorted as text."""
    texts = [image for key, image in images.items() if isinstance(key, str)]
    if texts and not all(isinstance(image.id, str) for image in images.values()):
        raise DataError(
            f"{path}: image {printable(texts[0].file)} has the id {quote(texts[0].id)}, but other ids are integers; "
            f"make all ids text, or all integers"
        )
    keys = sorted(images, key=str if texts else int)
    for key in () if texts else keys:
        _integer_id(key, f"image {printable(images[key].file)}", path)
    return keys


def _annotations(
    records: Sequence[Record], images: Mapping[int | str, _Image], names: Mapping[int, str], path: Path
) -> dict[int | str, tuple[str, list[tuple[int, int, int]]]]:
    """By image id: the file name of its PNG, and its segments (id, category id, 1 for a crowd) in ascending order."""
    annotations: dict[int | str, tuple[str, list[tuple[int, int, int]]]] = {}
    for place, record in enumerate(records, start=1):
        file = _file_name(record.get("file_name"), f"annotation no. {place}", path)
        key = parse_id(record.get("image_id"))
        if key is None or key not in images:
            owner = quote(record.get("image_id"))
            raise DataError(f"{path}: {printable(file)} belongs to image_id {owner}, which is not in images")
        if key in annotations:
            pair = f"{printable(annotations[key][0])} and {printable(file)}"
            raise DataError(f"{path}: image_id {quote(record['image_id'])} has two annotations ({pair}); keep one")
        owner = printable(file)
        values = _objects(record.get("segments_info"), f"segments_info of {owner}", path)
        segments = sorted(_segment(value, owner, names, path) for value in values)
        if len({number for number, *_ in segments}) < len(segments):
            raise DataError(f"{path}: two segments of {owner} have the same id")
        annotations[key] = file, segments
    return annotations


def _segment(record: Record, owner: str, names: Mapping[int, str], path: Path) -> tuple[int, int, int]:
    number, category, crowd = parse_id(record.get("id")), parse_id(record.get("category_id")), record.get("iscrowd")
    if not (isinstance(number, int) and 0 < number <= MAX_SEGMENT_ID):
        raise DataError(
            f"{path}: segment {quote(record.get('id'))} of {owner}: its id must be an integer 1 … {MAX_SEGMENT_ID}, "
            f"the color of its pixels in the PNG (R + 256 G + 65536 B); 0 marks pixels without a segment"
        )
    if not isinstance(category, int) or category not in names:
        known = ", ".join(f"{other} {printable(name)}" for other, name in list(names.items())[:5])
        raise DataError(
            f"{path}: segment {number} of {owner} has category_id {quote(record.get('category_id'))}, which is not in "
            f"categories ({known}{' …' if len(names) > 5 else ''})"
        )
    flag = parse_flag(crowd)
    if flag is None:
        raise DataError(f"{path}: segment {number} of {owner} has iscrowd {quote(crowd)}; it must be 0 or 1")
    return number, category, flag


def _integer_id(value: Any, owner: str, path: Path) -> int:
    """A normalized id. Raises DataError unless it is an integer that fits into int64."""
    number = parse_id(value)
    if not isinstance(number, int) or abs(number) > MAX_INT64:
        raise _wrong_id(value, owner, path)
    return number


def _wrong_id(value: Any, owner: str, path: Path) -> DataError:
    return DataError(f"{path}: {owner} has the id {quote(value)}; an id must be an integer of at most {MAX_INT64}")


def _file_name(value: Any, owner: str, path: Path) -> str:
    if not isinstance(value, str) or not parse_text(value) or not is_file_name(value):
        raise DataError(f"{path}: {owner} has the file_name {quote(value)}; it must be the name of a file")
    return value


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= 255


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
