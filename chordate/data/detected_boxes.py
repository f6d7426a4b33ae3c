"""Reads the boxes from a detector's results file in COCO's format, as written by `chordate test --predictions`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from chordate.data.coco_geometry import MAX_COORDINATE, MIN_SIDE
from chordate.data.file_ids import Id, id_in_file, parse_id
from chordate.data.paths import missing_file
from chordate.errors import DataError
from chordate.text import pluralize

# With much larger values, the areas of boxes would overflow float32.
Pixels = Annotated[FiniteFloat, Ge(-MAX_COORDINATE), Le(MAX_COORDINATE)]


@dataclass
class DetectedBox:
    """One entry of a results file; `bbox` is x, y, width, height in pixels. Other fields are ignored.

    Scores that exceed 1 by a rounding error are clamped to 1.
    """

    image_id: int | str
    category_id: int | str
    bbox: tuple[Pixels, Pixels, Pixels, Pixels]
    score: Annotated[float, Ge(0), Le(1 + 1e-6)]


class DetectedBoxes(NamedTuple):
    """The `M` boxes of a results file.

    Attributes:
        image_ids: `[M]` int64, id in the dataset of each box's image.
        category_ids: `[M]` int64, id in the dataset of each box's category.
        boxes: `[M, 4]` float32 x1, y1, x2, y2 in pixels.
        scores: `[M]` float32, 0 … 1.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


def ids_by_file_id(records: Sequence[Mapping[str, Any]]) -> dict[Id | None, int]:
    """Mapping from the ids in the annotation file to the ids in the dataset, for images or categories."""
    return {parse_id(id_in_file(record)): record["id"] for record in records}


def read_detected_boxes(
    path: Path,
    image_ids: Mapping[Id | None, int],
    category_ids: Mapping[Id | None, int],
    score_threshold: float = 0.0,
    left_out: Collection[Id | None] = (),
) -> DetectedBoxes:
    """Read the boxes of the given categories, sorted by image id (boxes of one image in the order of the file).

    Boxes with a side below MIN_SIDE pixels are dropped.

    Args:
        path: JSON file with a list of `DetectedBox`.
        image_ids: mapping from image id in the annotation file to image id in the dataset, for all images.
        category_ids: mapping from category id in the annotation file to category id in the dataset. Boxes of other
            categories are dropped.
        score_threshold: minimum score; boxes with lower scores are dropped.
        left_out: ids in the annotation file of images that were left out; their boxes are dropped.

    Raises:
        DataError: the file is missing or has another format, a box belongs to an image that is not in `image_ids`, or
            no box is left.
    """
    if not path.is_file():
        raise DataError(missing_file(path, "results"))
    try:
        entries = TypeAdapter(list[DetectedBox]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{path}: not COCO results ({first_problem(error)}); create the file with chordate test --predictions"
        ) from (error)
    entries = [entry for entry in entries if parse_id(entry.image_id) not in left_out]
    foreign = [entry.image_id for entry in entries if parse_id(entry.image_id) not in image_ids]
    if foreign:
        raise DataError(
            f"{path}: {len(foreign)} of {pluralize(len(entries), 'box')} belong to images that are not in the "
            f"annotation file (the first belongs to image {foreign[0]}); run the detector on the images of that file"
        )
    corners = np.array([entry.bbox for entry in entries]).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    table = DetectedBoxes(
        np.array([image_ids[parse_id(entry.image_id)] for entry in entries], np.int64),
        np.array([category_ids.get(parse_id(entry.category_id), -1) for entry in entries], np.int64),
        corners.astype(np.float32),
        np.array([entry.score for entry in entries], np.float32).clip(max=1),
    )
    known = table.category_ids >= 0
    kept = known & (table.scores >= score_threshold) & (table.boxes[:, 2:] - table.boxes[:, :2] >= MIN_SIDE).all(1)
    if not kept.any():
        reason = f"none of category {', '.join(map(str, category_ids))}"
        if known.any():
            reason = f"each has another category, is too small or has a score < box_score_threshold={score_threshold:g}"
        raise DataError(f"{path}: {pluralize(len(entries), 'box')}, but {reason}; there is nothing to crop")
    order = np.flatnonzero(kept)[np.argsort(table.image_ids[kept], kind="stable")]
    return DetectedBoxes(table.image_ids[order], table.category_ids[order], table.boxes[order], table.scores[order])


def first_problem(error: ValidationError) -> str:
    """Describe the place and the cause of the first validation error in a phrase."""
    first = error.errors()[0]
    where = first["loc"]
    place = f"entry {where[0]}{''.join(f', {part}' for part in where[1:])}: " if where else ""
    return f"{place}{first['msg']}"
