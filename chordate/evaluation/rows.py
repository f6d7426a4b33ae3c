"""The detections of many images as columns, gathered over ranks with every image counted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mmengine.dist
import numpy as np
import torch
from numpy.typing import NDArray

from chordate.errors import DataError, TrainingError
from chordate.structures import Detections, ImageInfo


@dataclass(frozen=True)
class Rows:
    """Detections of `images` pictures, `D` in all; a picture without detections has a count of 0.

    Attributes:
        image_ids: `[images]` int64.
        counts: `[images]` int64, detections of each.
        boxes: `[D, 4]` float32 xyxy in pixels of the original pictures, picture after picture, best first.
        scores: `[D]` float32.
        labels: `[D]` int32.
    """

    image_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]

    @classmethod
    def pack(cls, infos: Sequence[ImageInfo], detections: Sequence[Detections], classes: Sequence[str]) -> Rows:
        """The rows of one batch; one copy from the device for each column.

        Raises:
            DataError: a label that is none of `classes`.
            TrainingError: boxes or scores that are not finite.
        """
        rows = cls(
            np.array([info.image_id for info in infos], np.int64),
            np.array([len(found) for found in detections], np.int64),
            torch.cat([found.boxes for found in detections]).float().cpu().numpy().reshape(-1, 4),
            torch.cat([found.scores for found in detections]).float().cpu().numpy(),
            torch.cat([found.labels for found in detections]).int().cpu().numpy(),
        )
        wrong = (rows.labels < 0) | (rows.labels >= len(classes))
        if wrong.any():
            info, label = rows._first(wrong, infos), rows.labels[wrong][0]
            raise DataError(
                f"{info.path}: a detection has label {label}, but the data set has {len(classes)} classes "
                f"(0 … {len(classes) - 1}); evaluate the model on the classes it was trained for"
            )
        broken = ~(np.isfinite(rows.scores) & np.isfinite(rows.boxes).all(1))
        if broken.any():
            info = rows._first(broken, infos)
            raise TrainingError(f"{info.path}: a detection is NaN or infinite; the model's weights have diverged")
        return rows

    def _first(self, chosen: NDArray[np.bool_], infos: Sequence[ImageInfo]) -> ImageInfo:
        return infos[int(np.repeat(np.arange(len(infos)), self.counts)[chosen.argmax()])]

    @classmethod
    def join(cls, many: Sequence[Rows]) -> Rows:
        """All of them one after another."""
        return cls(*(np.concatenate([getattr(rows, name) for rows in [_EMPTY, *many]]) for name in _COLUMNS))

    def unique(self) -> Rows:
        """Sorted by image id, and of an image that is there more than once only the first."""
        image_ids, first = np.unique(self.image_ids, return_index=True)
        counts = self.counts[first]
        starts = (np.cumsum(self.counts) - self.counts)[first]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        take = np.repeat(starts, counts) + within
        return Rows(image_ids, counts, self.boxes[take], self.scores[take], self.labels[take])

    def gather(self) -> Rows:
        """Those of all ranks, the same on each and in the same order however the images were dealt out."""
        return Rows.join(mmengine.dist.all_gather_object(self)).unique()

    def columns(self, category_ids: Sequence[int]) -> NDArray[np.float64]:
        """`[D, 7]`: image id, x, y, width, height, score, category id, as COCO's tools load arrays."""
        columns = np.empty((len(self.scores), 7))
        columns[:, 0] = np.repeat(self.image_ids, self.counts)
        columns[:, 1:5] = self.boxes
        columns[:, 3:5] -= columns[:, 1:3]
        columns[:, 5] = self.scores
        columns[:, 6] = np.asarray(category_ids, np.float64)[self.labels]
        return columns


_COLUMNS = tuple(Rows.__dataclass_fields__)
_EMPTY = Rows(
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty((0, 4), np.float32),
    np.empty(0, np.float32),
    np.empty(0, np.int32),
)


def as_results(columns: NDArray[np.float64]) -> list[dict[str, Any]]:
    """`[D, 7]` columns as COCO's results list, one dict a detection."""
    ids = columns[:, [0, 6]].astype(np.int64).tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for (image_id, category_id), box, score in zip(ids, columns[:, 1:5].tolist(), columns[:, 5].tolist())
    ]
