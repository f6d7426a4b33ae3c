"""Boxes of objects for top-down models: from arrays, detections, or the predictions of a detector in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from chordate.data.coco_geometry import MIN_SIDE
from chordate.data.detected_boxes import Pixels, first_problem
from chordate.data.paths import missing_file
from chordate.errors import DataError
from chordate.structures import Detections, Sample
from chordate.structures.pose import CropInfo
from chordate.text import printable


class PredictedBox(BaseModel):
    """One entry of a detector's `predictions.json`; `box` is x1, y1, x2, y2 in pixels. Other fields are ignored."""

    file: str
    name: str = Field(alias="class")
    score: Annotated[float, Ge(0), Le(1)]
    box: tuple[Pixels, Pixels, Pixels, Pixels]


def read_predicted_boxes(path: Path, classes: Sequence[str]) -> dict[Path, Detections]:
    """Read the boxes of the given classes from the `predictions.json` that `chordate predict` writes for a detector.

    Returns:
        The boxes of each image that has predictions, by the absolute path of the image file; labels are indices of
        `classes`.

    Raises:
        DataError: the file is missing or has another format, or no box has one of the classes.
    """
    if not path.is_file():  # also true for a pipe; reading it would block
        raise DataError(missing_file(path, "predictions"))
    try:
        entries = TypeAdapter(list[PredictedBox]).validate_json(path.read_bytes())
    except ValidationError as error:
        problem = first_problem(error)
        raise DataError(f"{path}: not predictions of a detector ({problem}); run chordate predict") from error
    known = [entry for entry in entries if entry.name in classes]
    if entries and not known:
        others = ", ".join(map(printable, sorted({entry.name for entry in entries})[:5]))
        raise DataError(f"{path}: no box has a class of the model ({', '.join(classes)}); the boxes are of {others}")
    by_file: dict[Path, list[PredictedBox]] = {Path(entry.file).resolve(): [] for entry in entries}
    for entry in known:
        by_file[Path(entry.file).resolve()].append(entry)
    return {
        file: Detections(
            torch.tensor([entry.box for entry in own]).reshape(-1, 4),
            torch.tensor([entry.score for entry in own]),
            torch.tensor([classes.index(entry.name) for entry in own], dtype=torch.int64),
        )
        for file, own in by_file.items()
    }


def as_detections(boxes: Any, classes: Sequence[str], source: str) -> Detections:
    """Convert the boxes of one image to Detections on the CPU.

    Args:
        boxes: Detections, whose labels are indices of `classes`; or an array `[M, 4]` of x1, y1, x2, y2 in pixels, for
            which all scores are 1 and all labels 0.
        classes: the class names of the model.
        source: description of the boxes, for messages.

    Raises:
        DataError: the boxes are not `[M, 4]`, a box has no area, or a label is not an index of `classes`.
    """
    if isinstance(boxes, Detections):
        objects = boxes.to("cpu", non_blocking=False)
        foreign = objects.labels[objects.labels >= len(classes)].tolist()
        if foreign:
            raise DataError(
                f"{source} have the label {foreign[0]}, but the model's classes are {', '.join(classes)}; pass only "
                f"detections of these classes, with the labels 0 … {len(classes) - 1}"
            )
    else:
        try:
            array = np.asarray(boxes.cpu() if isinstance(boxes, Tensor) else boxes, np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"{source} must be [M, 4] (x1, y1, x2, y2 in pixels): {error}") from error
        if array.size and (array.ndim != 2 or array.shape[1] != 4):
            raise DataError(f"{source} must be [M, 4] (x1, y1, x2, y2 in pixels), got {list(array.shape)}")
        corners = torch.from_numpy(array.reshape(-1, 4).copy())
        objects = Detections(corners, torch.ones(len(corners)), torch.zeros(len(corners), dtype=torch.int64))
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    usable = ((sides >= MIN_SIDE) & sides.isfinite()).all(1)
    if not usable.all():
        first = int((~usable).nonzero()[0])
        raise DataError(f"{source}: box {first} has no area: {[round(x, 2) for x in objects.boxes[first].tolist()]}")
    return objects


def crop_samples(sample: Sample, objects: Detections) -> list[Sample]:
    """Make one sample per object, in the format of `CocoPoseDataset`, for `TopDownCrop`.

    Args:
        sample: `image` `[3, H, W]` and `info`.
        objects: boxes in pixels of the image.
    """
    info = sample["info"]
    size = info.height, info.width
    samples = []
    for box, score, label in zip(objects.boxes.float(), objects.scores.tolist(), objects.labels.tolist()):
        boxes = BoundingBoxes(box[None], format=BoundingBoxFormat.XYXY, canvas_size=size, clamping_mode=None)
        x1, y1, x2, y2 = box.tolist()
        crop = CropInfo(info.image_id, info.path, *size, box=(x1, y1, x2, y2), size=size, score=score, label=label)
        samples.append({**sample, "boxes": boxes, "info": crop})
    return samples
