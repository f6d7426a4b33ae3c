"""A naive reader of COCO files with masks, keypoints and `health="warn"`, as the referee of the fuzzer.

It shares no code with the package: plain `json`, one record at a time, and points in polygons by winding numbers.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coco_mutants import HEIGHT, WIDTH
from pycocotools import mask as rle

GRID = 112  # number of mask cells along each side of the object's box
NO_BOX = 0.01  # pixels; objects whose box has a shorter side are left out
HUGE = 1e9


class Contradiction(Exception):
    """Raised for an invalid record: `health="error"` must refuse it, `health="warn"` must leave out what is invalid."""


@dataclass
class Object:
    """One object of an image; `mask` is a bitmap on a grid over its box, `points` are x, y and visibility."""

    box: tuple[float, ...]
    name: str
    crowd: bool
    mask: np.ndarray | None = None
    points: list[tuple[float, float, int]] | None = None

    def order(self) -> tuple[Any, ...]:
        grid = (-1,) if self.mask is None else (int(self.mask.sum()), self.mask.tobytes())
        return (*(round(side, 2) for side in self.box), self.name, self.crowd, *grid, self.points or [])


Images = dict[str, list[Object]]


def read_dataset(dataset: Any) -> Images:
    """The objects of each image, from the samples of a CocoDataset."""
    images: Images = {}
    for index in range(len(dataset)):
        sample = dataset[(0, index)]
        objects = images.setdefault(Path(sample["info"].path).name, [])
        for number, box in enumerate(sample["boxes"].tolist()):
            one = Object(tuple(box), dataset.classes[sample["labels"][number]], bool(sample["crowd"][number]))
            if "masks" in sample and sample["has_mask"][number]:
                one.mask = sample["masks"][number].numpy().astype(bool)
            if "keypoints" in sample:
                one.points = [(x, y, int(v)) if v else (0, 0, 0) for x, y, v in sample["keypoints"][number].tolist()]
            objects.append(one)
    return images


class NaiveReader:
    """Reads `root/annotations.json` record by record; images with the same file are one image.

    Attributes:
        lenient: whether invalid records, masks and keypoints are left out instead of raising Contradiction.
        left_out: number of invalid records, masks and keypoints that were left out.
    """

    def __init__(self, root: Path, *, lenient: bool, masks: bool, keypoints: bool):
        self.root, self.lenient, self.masks, self.keypoints = root, lenient, masks, keypoints
        self.left_out = 0

    def read(self) -> Images:
        content = json.loads((self.root / "annotations.json").read_text("utf-8-sig"))
        categories = self.by_id(content.get("categories"))
        names: dict[Any, str] = {}
        records = content.get("annotations") or []
        used = {identity(record.get("category_id")) for record in records if isinstance(record, dict)}
        for key, record in categories.items():
            name = record.get("name")
            text = str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""
            same = [other for other, known in names.items() if known == text]
            if same and (key not in used or same[0] not in used):  # one of them has no annotations
                if key in used:
                    del names[same[0]]
                    names[key] = text
            elif self.holds(lambda text=text, same=same: text != "" and not same):
                names[key] = text
        joints = {key: len(joint_names(record.get("keypoints"))) for key, record in categories.items() if key in names}
        most = max(joints.values(), default=0)
        files = {}
        for key, record in self.by_id(content.get("images")).items():
            name = record.get("file_name")
            if self.holds(lambda name=name: is_file_name(name)):
                files[key] = Path(str(name).replace("\\", "/")).name
        images: Images = {name: [] for name in files.values()}
        assert files
        for record in content.get("annotations") or []:
            try:
                self.check(isinstance(record, dict))
                key, category = identity(record.get("image_id")), identity(record.get("category_id"))
                self.check(key is not None and key in files and category in names)
                one = self.object(record, names[category], most, bool(joints[category]))
                if one is not None:
                    images[files[key]].append(one)
            except Contradiction:
                if not self.lenient:
                    raise
                self.left_out += 1
        return images

    def check(self, holds: bool) -> None:
        if not holds:
            raise Contradiction

    def holds(self, condition: Callable[[], bool]) -> bool:
        """Whether a condition holds; if not, counts a contradiction (if lenient) or raises Contradiction."""
        if not condition():
            if not self.lenient:
                raise Contradiction
            self.left_out += 1
            return False
        return True

    def by_id(self, records: Any) -> dict[Any, dict[str, Any]]:
        """The records of a list, keyed by id; of records with the same id, only the first is kept."""
        found: dict[Any, dict[str, Any]] = {}
        for record in records or []:
            key = identity(record.get("id")) if isinstance(record, dict) else None
            if self.holds(lambda key=key: key is not None and key not in found):
                found[key] = record
        return found

    def object(self, record: dict, name: str, joints: int, has_joints: bool) -> Object | None:
        height, width = HEIGHT, WIDTH
        flag = record.get("iscrowd")
        self.check(flag is None or (isinstance(flag, int | float | str) and flag in (0, 1, "0", "1")))
        crowd = flag is not None and flag in (1, "1")
        try:
            polygons, bitmap = shape_of(record.get("segmentation"), height, width)
        except Contradiction:
            self.holds(lambda: False)
            polygons, bitmap = [], None
        box = record.get("bbox")
        if box is None or box == []:
            self.check(bool(polygons) or bitmap is not None)
            encoded = rle.merge(rle.frPyObjects(polygons, height, width)) if polygons else rle.encode(bitmap)
            box = rle.toBbox(encoded).tolist()
        sides = [number(side) for side in box] if isinstance(box, list) else []
        self.check(len(sides) == 4 and None not in sides)
        x, y, w, h = sides
        corners = (max(x, 0), max(y, 0), min(x + w, width), min(y + h, height))
        points = self.points(record.get("keypoints"), joints) if has_joints else [(0, 0, 0)] * joints
        if min(corners[2] - corners[0], corners[3] - corners[1]) < NO_BOX:
            return None
        one = Object(tuple(map(float, corners)), name, crowd)
        if self.masks and not crowd:
            one.mask = grid_of(polygons, bitmap, corners)
        if self.keypoints:
            one.points = points
        return one

    def points(self, value: Any, joints: int) -> list[tuple[float, float, int]]:
        """The keypoints in continuous coordinates; unlabeled keypoints are at (0, 0)."""
        nothing: list[tuple[float, float, int]] = [(0, 0, 0)] * joints
        if not value:
            return nothing
        numbers = [number(entry) for entry in value] if isinstance(value, list) else []
        rows = list(zip(numbers[::3], numbers[1::3], numbers[2::3]))
        good = len(numbers) == 3 * joints and None not in numbers and all(v in (0, 1, 2) for _, _, v in rows)
        if not self.holds(lambda: good):
            return nothing
        return [(x + 0.5, y + 0.5, int(v)) if v else (0, 0, 0) for x, y, v in rows]


def is_file_name(name: Any) -> bool:
    """Whether the value is a valid file name."""
    if isinstance(name, bool) or not isinstance(name, str | int):
        return False
    encoded = str(name).encode("utf-8", "surrogatepass")
    return (
        len(encoded) > 0
        and encoded.decode("utf-8", "replace") == str(name)
        and b"\0" not in encoded
        and len(encoded) < 256
    )


def joint_names(value: Any) -> list[str]:
    """The names of a category's keypoints; empty if `value` is not a list of names."""
    names = value if isinstance(value, list) else []
    usable = all(isinstance(name, str | int) and not isinstance(name, bool) and name != "" for name in names)
    return [str(name) for name in names] if usable else []


def identity(value: Any) -> int | str | None:
    """A normalized id: 7, 7.0 and "7" become 7; None if the value is not an id."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str):
        value = value.strip()
        digits = value.removeprefix("-")
        plain = digits.isascii() and digits.isdigit() and str(int(value)) == value
        return int(value) if plain else value or None
    return value


def number(value: Any) -> float | None:
    """The value (a number or text) as a float; None if it is not a number, not finite or larger than HUGE."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) and abs(result) <= HUGE else None


def shape_of(value: Any, height: int, width: int) -> tuple[list[list[float]], np.ndarray | None]:
    """The usable polygons of a segmentation, or the bitmap of its RLE; neither if there is no usable mask.

    Raises:
        Contradiction: the RLE is invalid or does not fit the image.
    """
    if not value or not isinstance(value, list | dict):
        return [], None
    if isinstance(value, list):
        rings = value if isinstance(value[0], list) else [value]
        return [ring for entry in rings if (ring := ring_of(entry))], None
    size = value.get("size")
    if not isinstance(size, list) or [number(side) for side in size] != [height, width]:
        raise Contradiction
    counts = value.get("counts")
    runs = uncompressed(counts) if isinstance(counts, str) else counts
    runs = [number(run) for run in runs] if isinstance(runs, list) else [None]
    if any(run is None or run < 0 or run != int(run) for run in runs) or sum(runs) != height * width:
        raise Contradiction
    pixels = np.concatenate([np.full(int(run), place % 2, np.uint8) for place, run in enumerate(runs)])
    bitmap = np.asfortranarray(pixels.reshape(width, height).T)
    return [], bitmap if bitmap.any() else None


def ring_of(entry: Any) -> list[float]:
    """The coordinates of a polygon with at least two x values and two y values; an empty list for other entries."""
    if not isinstance(entry, list) or len(entry) < 6 or len(entry) % 2:
        return []
    numbers = [number(value) for value in entry]
    if None in numbers:
        return []
    return numbers if len(set(numbers[::2])) > 1 and len(set(numbers[1::2])) > 1 else []


def uncompressed(text: str) -> list[int] | None:
    """Decode COCO's compressed RLE counts character by character, as in maskApi.c; None if invalid."""
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            code = ord(text[place]) - 48 if place < len(text) else -1
            if not 0 <= code <= 63 or shift > 30:
                return None
            value |= (code & 31) << shift
            shift, place, more = shift + 5, place + 1, bool(code & 32)
            if not more and code & 16:
                value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts or None


def grid_of(polygons: list[list[float]], bitmap: np.ndarray | None, box: tuple[float, ...]) -> np.ndarray | None:
    """The mask, sampled at the cell centers of a grid over the box; None if it has no area or is outside the box."""
    centers = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(box[0] + centers * (box[2] - box[0]), box[1] + centers * (box[3] - box[1]))
    if bitmap is not None:
        rows, columns = np.nonzero(bitmap)
        if beside((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), box):
            return None
        return bitmap[y.astype(int), x.astype(int)].astype(bool)
    rings = [np.array(polygon).reshape(-1, 2) for polygon in polygons]
    areas = [area_of(ring) for ring in rings]
    if not rings or abs(sum(map(abs, areas))) < 1e-4:
        return None
    low, high = np.min([r.min(0) for r in rings], axis=0), np.max([r.max(0) for r in rings], axis=0)
    if beside((*low, *high), box):
        return None
    winding = sum(np.sign(area) * windings(ring, x, y) for ring, area in zip(rings, areas))
    return np.asarray(winding != 0)


def beside(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[2] <= other[0] or one[0] >= other[2] or one[3] <= other[1] or one[1] >= other[3]


def area_of(ring: np.ndarray) -> float:
    """The signed area of a polygon."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def windings(ring: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The winding number of the polygon around each point."""
    total = np.zeros(x.shape, int)
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0)):
        left = (bx - ax) * (y - ay) - (x - ax) * (by - ay)
        total += ((ay <= y) & (by > y) & (left > 0)).astype(int) - ((ay > y) & (by <= y) & (left < 0)).astype(int)
    return total


def difference(ours: Images, naive: Images) -> str:
    """The first difference between two readings; empty if there is none."""
    if ours.keys() != naive.keys():
        return f"images {sorted(ours)} instead of {sorted(naive)}"
    for file in ours:
        if len(ours[file]) != len(naive[file]):
            return f"{file}: {len(ours[file])} objects instead of {len(naive[file])}"
        for a, b in zip(*(sorted(images[file], key=Object.order) for images in (ours, naive))):
            if a.name != b.name or a.crowd != b.crowd or not np.allclose(a.box, b.box, rtol=0, atol=0.02):
                return f"{file}: {a.order()[:6]} instead of {b.order()[:6]}"
            if (a.mask is None) != (b.mask is None):
                return f"{file}: {a.box} has {'no mask' if a.mask is None else 'a mask'}"
            if a.mask is not None and b.mask is not None and (a.mask != b.mask).mean() > 0.03:
                return f"{file}: the masks of {a.box} differ in {(a.mask != b.mask).mean():.0%} of the cells"
            if (a.points is None) != (b.points is None) or not np.allclose(a.points or 0, b.points or 0, atol=1e-3):
                return f"{file}: keypoints {a.points} instead of {b.points}"
    return ""
