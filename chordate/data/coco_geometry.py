"""Checks the values of one COCO annotation: numbers, boxes, polygons, run-length encodings (RLE) and keypoints.

The functions accept the variants that annotation tools write, such as numbers as text. They never allocate an
array of a size that is only stated in a file, such as the `size` of an RLE.
"""

import math
from collections.abc import Mapping
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_COORDINATE = 1e9  # in pixels, larger than any image side; areas stay finite in float32
MAX_RLE_PIXELS = 2**32 - 1  # COCO's RLE counts pixels in 32 bits
MIN_SIDE = 0.01  # pixels; instances whose box has a shorter side in the image are dropped
MIN_MASK_AREA = 1e-4  # square pixels; smaller masks are not used
FLAGS: Mapping[Any, int] = {0: 0, 1: 1, "0": 0, "1": 1, None: 0}  # also for False, True, 0.0, 1.0: equal to 0 or 1


def parse_number(value: Any) -> float | None:
    """Convert a number or numeric text to float; None for NaN, numbers beyond ±MAX_COORDINATE and other values."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if -MAX_COORDINATE <= number <= MAX_COORDINATE else None  # false for NaN


def parse_side(value: Any) -> int | None:
    """The height or width of an image in pixels, a whole number ≥ 1; None if the value is something else."""
    number = parse_number(value)
    return int(number) if number is not None and number >= 1 and number.is_integer() else None


def parse_flag(value: Any) -> int | None:
    """COCO's `iscrowd`, 0 or 1; 0 for null, and None if the value is something else."""
    return FLAGS.get(value) if value is None or isinstance(value, int | float | str) else None


def parse_box(value: Any) -> list[float] | None:
    """COCO's x, y, width and height; None if the value is not a list of four finite numbers."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [number for side in value if (number := parse_number(side)) is not None]
    return numbers if len(numbers) == 4 else None


def parse_polygons(value: list[Any]) -> tuple[list[list[float]], int]:
    """The usable polygons of a segmentation, and the number of unusable ones.

    A usable polygon is a list x1, y1, x2, y2, … of at least three points whose bounding box has an area. A single
    polygon may stand alone, without the list of polygons around it.
    """
    rings = value if not value or isinstance(value[0], list) else [value]
    usable = [polygon for ring in rings if (polygon := _parse_polygon(ring)) is not None]
    return usable, len(rings) - len(usable)


def _parse_polygon(ring: Any) -> list[float] | None:
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
        return None
    numbers: list[float] = ring
    if set(map(type, ring)) != {float}:
        numbers = [number for entry in ring if (number := parse_number(entry)) is not None]
    if len(numbers) < len(ring) or not math.isfinite(sum(numbers)):
        return None
    xs, ys = numbers[::2], numbers[1::2]
    low, high, left, right = min(ys), max(ys), min(xs), max(xs)
    in_range = min(low, left) >= -MAX_COORDINATE and max(high, right) <= MAX_COORDINATE
    return numbers if in_range and low < high and left < right else None


def parse_rle(value: Mapping[str, Any], height: int, width: int) -> tuple[dict[str, Any] | None, str]:
    """Check the run-length encoding of an image's mask.

    Returns:
        The encoding, `{"size": [height, width], "counts": …}`, and an empty string. For an encoding that cannot be
        used, None and the reason, which is an empty string for a mask without pixels.
    """
    size = value.get("size")
    sides = [parse_side(side) for side in size] if isinstance(size, list) else []
    if sides != [height, width]:
        own = f"{sides[1]}×{sides[0]} px" if len(sides) == 2 and None not in sides else f"size {size!r}"
        return None, f"{own} in an image of {width}×{height} px"
    counts = value.get("counts")
    runs = decompress(counts) if isinstance(counts, str) else _runs(counts)
    if runs is None:
        return None, "counts that are neither whole numbers ≥ 0 nor COCO's compressed text"
    if (total := int(runs.sum())) != height * width:
        return None, f"counts of {total:,} pixels in an image of {width}×{height} px = {height * width:,}"
    if not runs[1::2].any():
        return None, ""
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else runs.tolist()}, ""


def has_mask_in_box(segmentation: Any, x1: float, y1: float, x2: float, y2: float) -> bool:
    """Whether a mask has an area and its bounds overlap a box, as in `Polygons.overlap`.

    Args:
        segmentation: usable polygons, or a usable RLE.
        x1, y1, x2, y2: the box in pixels.
    """
    if isinstance(segmentation, Mapping):
        left, top, right, bottom = _rle_bounds(segmentation)
    else:
        area = abs(sum(map(_twice_area, segmentation))) / 2
        if area < MIN_MASK_AREA:
            return False
        xs, ys = [[v for ring in segmentation for v in ring[axis::2]] for axis in (0, 1)]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    return right > x1 and left < x2 and bottom > y1 and top < y2


def _twice_area(ring: list[float]) -> float:
    """Twice the area of a polygon x1, y1, x2, y2, … (shoelace formula)."""
    xs, ys = ring[::2], ring[1::2]
    return abs(sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1])))


def _rle_bounds(encoding: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Bounds x1, y1, x2, y2 of the foreground of a usable RLE; its runs are in column-major order."""
    height, counts = encoding["size"][0], encoding["counts"]
    runs = decompress(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    assert runs is not None  # the encoding is usable
    ends = runs.cumsum()
    starts, ends = ends[:-1:2], ends[1::2]  # start and end (exclusive) of each foreground run
    starts, ends = starts[ends > starts], ends[ends > starts] - 1
    is_crossing = (starts // height < ends // height).any()  # whether a run continues in the next column
    top, bottom = (0, height) if is_crossing else (int((starts % height).min()), int((ends % height).max()) + 1)
    return int(starts[0]) // height, top, int(ends[-1]) // height + 1, bottom


def _runs(counts: Any) -> NDArray[np.int64] | None:
    """Convert uncompressed counts to an array; None unless they are a list of integers ≥ 0."""
    numbers = [parse_number(count) for count in counts] if isinstance(counts, list) else [None]
    if any(number is None or number < 0 or not number.is_integer() for number in numbers):
        return None
    return np.array(numbers, np.float64).astype(np.int64)


def decompress(text: str) -> NDArray[np.int64] | None:
    """Decode COCO's compressed counts: 5 bits per character, least significant first, as in COCO's `rleFrString`.

    Counts from the fourth on are differences from the count two places before. Returns None for invalid text.
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero(codes & 32 == 0)  # the last character of each count
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 6:  # more than 35 bits
        return None
    values = np.add.reduceat((codes & 31) << (5 * place), first)
    negative = codes[last] & 16 != 0
    values -= np.where(negative, 1 << (5 * (last - first + 1)), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values if values.min() >= 0 and values.max() <= MAX_RLE_PIXELS else None


def parse_keypoints(value: list[Any], count: int) -> list[float] | None:
    """Keypoints x1, y1, v1, …; None unless they are 3 · `count` finite numbers, and every visibility v is 0, 1 or 2.

    Args:
        value: the annotation's `keypoints`.
        count: number of keypoints of its category.
    """
    numbers = [number for entry in value if (number := parse_number(entry)) is not None]
    if len(numbers) < len(value) or len(numbers) != 3 * count:
        return None
    return numbers if set(numbers[2::3]) <= {0.0, 1.0, 2.0} else None
