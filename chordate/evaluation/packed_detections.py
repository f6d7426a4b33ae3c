"""The detections of many images as columns, gathered over ranks with every image counted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import mmengine.dist
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chordate.errors import DataError, TrainingError
from chordate.structures import Detections, ImageInfo


@dataclass(frozen=True)
class Rows:
    """Detections of `images` pictures, `D` in all; a picture without detections has a count of 0.

    Attributes:
        image_ids: `[images]` int64.
        counts: `[images]` int64, detections of each.
        sizes: `[images, 2]` int64, height and width of the original pictures.
        boxes: `[D, 4]` float32 xyxy in pixels of the original pictures, picture after picture, best first.
        scores: `[D]` float32.
        labels: `[D]` int32.
        masks: `[D]` bytes, COCO's compressed run lengths, or None.
        keypoints: `[D, K, 3]` float32 x, y (continuous coordinates) and score, or None.
    """

    image_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    masks: NDArray[np.object_] | None = None
    keypoints: NDArray[np.float32] | None = None

    @classmethod
    def pack(cls, infos: Sequence[ImageInfo], detections: Sequence[Detections], classes: Sequence[str]) -> Rows:
        """The rows of one batch; one copy from the device for each column, and masks encoded image by image.

        Raises:
            DataError: a label that is none of `classes`, a mask of another size than the picture, or masks or
                keypoints for some detections only.
            TrainingError: boxes, scores or keypoints that are not finite.
        """
        masks = [_encoded(info, found.masks) for info, found in zip(infos, detections) if found.masks is not None]
        keypoints = [found.keypoints for found in detections if found.keypoints is not None]
        rows = cls(
            np.array([info.image_id for info in infos], np.int64),
            np.array([len(found) for found in detections], np.int64),
            np.array([(info.height, info.width) for info in infos], np.int64).reshape(-1, 2),
            _column([found.boxes for found in detections]).reshape(-1, 4),
            _column([found.scores for found in detections]),
            torch.cat([found.labels for found in detections]).int().cpu().numpy(),
            np.concatenate(masks) if masks else None,
            _column(keypoints) if keypoints else None,
        )
        for name, column in (("masks", rows.masks), ("keypoints", rows.keypoints)):
            if column is not None and len(column) != len(rows.scores):
                raise DataError(f"{infos[0].path}: some detections of a batch have {name}, others have none")
        wrong = (rows.labels < 0) | (rows.labels >= len(classes))
        if wrong.any():
            info, label = rows._first(wrong, infos), rows.labels[wrong][0]
            raise DataError(
                f"{info.path}: a detection has label {label}, but the data set has {len(classes)} classes "
                f"(0 … {len(classes) - 1}); evaluate the model on the classes it was trained for"
            )
        finite = np.isfinite(rows.scores) & np.isfinite(rows.boxes).all(1)
        if rows.keypoints is not None:
            finite &= np.isfinite(rows.keypoints).all((1, 2))
        if not finite.all():
            info = rows._first(~finite, infos)
            raise TrainingError(f"{info.path}: a detection is NaN or infinite; the model's weights have diverged")
        return rows

    def _first(self, chosen: NDArray[np.bool_], infos: Sequence[ImageInfo]) -> ImageInfo:
        return infos[int(np.repeat(np.arange(len(infos)), self.counts)[chosen.argmax()])]

    @classmethod
    def join(cls, many: Sequence[Rows]) -> Rows:
        """All of them one after another.

        Raises:
            DataError: some have masks or keypoints, others do not.
        """
        columns: list[Any] = []
        for name in _COLUMNS:
            parts = [part for rows in [_EMPTY, *many] if (part := getattr(rows, name)) is not None]
            columns.append(np.concatenate(parts) if parts else None)
        joined = cls(*columns)
        for name, column in (("masks", joined.masks), ("keypoints", joined.keypoints)):
            if column is not None and len(column) != len(joined.scores):
                raise DataError(f"the model gave {name} for some images, and none for others")
        return joined

    def unique(self) -> Rows:
        """Sorted by image id, and of an image that is there more than once only the first."""
        image_ids, first = np.unique(self.image_ids, return_index=True)
        counts = self.counts[first]
        starts = (np.cumsum(self.counts) - self.counts)[first]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        take = np.repeat(starts, counts) + within
        columns = [getattr(self, name) for name in _COLUMNS[3:]]
        taken: list[Any] = [None if column is None else column[take] for column in columns]
        return Rows(image_ids, counts, self.sizes[first], *taken)

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

    def results(
        self, category_ids: Sequence[int], iou_types: Sequence[str], digits: int | None = None
    ) -> list[dict[str, Any]]:
        """COCO's results format, one dict a detection, with what `iou_types` are measured on.

        COCO's tools take a detection's size from its box where there is one. Masks and keypoints are therefore to be
        judged from results without boxes, so that their size is that of the mask, or of the keypoints' extent.

        Args:
            category_ids: of each label.
            iou_types: "bbox", "segm", "keypoints".
            digits: of a pixel after the point, two more of a score; None is full precision.
        """
        if not len(self.scores):
            return []
        columns = self.columns(category_ids)
        fields: dict[str, list[Any]] = {
            "image_id": columns[:, 0].astype(np.int64).tolist(),
            "category_id": columns[:, 6].astype(np.int64).tolist(),
        }
        if "bbox" in iou_types:
            fields["bbox"] = _rounded(columns[:, 1:5], digits).tolist()
        if "segm" in iou_types:
            assert self.masks is not None
            sizes = np.repeat(self.sizes, self.counts, axis=0).tolist()
            fields["segmentation"] = [
                {"size": size, "counts": counts.decode("ascii")} for size, counts in zip(sizes, self.masks)
            ]
        if "keypoints" in iou_types:
            assert self.keypoints is not None
            points = self.keypoints.astype(np.float64)
            # COCO counts pixels from 0, and ours have their centres at 0.5, 1.5 …
            points[:, :, :2] = _rounded(points[:, :, :2] - 0.5, digits)
            points[:, :, 2] = _rounded(points[:, :, 2], digits, more=2)
            fields["keypoints"] = points.reshape(len(points), -1).tolist()
        fields["score"] = _rounded(columns[:, 5], digits, more=2).tolist()
        return [dict(zip(fields, values)) for values in zip(*fields.values())]


def _column(tensors: Sequence[Tensor]) -> NDArray[np.float32]:
    return torch.cat(list(tensors)).float().cpu().numpy()


def _rounded(values: NDArray[np.float64], digits: int | None, more: int = 0) -> NDArray[np.float64]:
    return values if digits is None else values.round(digits + more)


def _encoded(info: ImageInfo, masks: Tensor) -> NDArray[np.object_]:
    """`[D, H, W]` bool as `[D]` compressed run lengths."""
    if masks.shape[1:] != (info.height, info.width):
        raise DataError(
            f"{info.path}: masks of {masks.shape[2]}×{masks.shape[1]} px for a picture of {info.width}×{info.height}"
        )
    encoded = np.empty(len(masks), object)
    if len(masks):
        encoded[:] = [one["counts"] for one in hotcoco.mask.encode(masks.cpu().numpy().transpose(1, 2, 0))]
    return encoded


_COLUMNS = tuple(Rows.__dataclass_fields__)
_EMPTY = Rows(
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty((0, 2), np.int64),
    np.empty((0, 4), np.float32),
    np.empty(0, np.float32),
    np.empty(0, np.int32),
)
