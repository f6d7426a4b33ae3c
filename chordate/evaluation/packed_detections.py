"""Stores the detections of many images as arrays, and gathers them from all ranks without duplicate images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import hotcoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chordate.distributed import all_gather_object
from chordate.errors import ConfigError, DataError, TrainingError
from chordate.structures import Detections, ImageInfo
from chordate.text import pluralize

IouType = Literal["bbox", "segm", "keypoints"]
# The field of PackedDetections that each IoU type evaluates.
MEASURED_ON: dict[IouType, str] = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}


@dataclass(frozen=True)
class PackedDetections:
    """Detections of `N` images, `D` detections in all; an image without detections has a count of 0.

    Attributes:
        image_ids: `[N]` int64.
        counts: `[N]` int64, number of detections per image.
        sizes: `[N, 2]` int64, height and width of the original images.
        boxes: `[D, 4]` float32, xyxy in pixels of the original images, ordered by image, then by descending score.
        scores: `[D]` float32.
        labels: `[D]` int32.
        masks: `[D]` bytes, COCO's compressed RLE, or None.
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
    def pack(cls, infos: Sequence[ImageInfo], predictions: Sequence[Detections], num_classes: int) -> PackedDetections:
        """Pack the detections of one batch. Each field is copied from the device once, masks once per image.

        Raises:
            DataError: a label is not in 0 … `num_classes` - 1, a mask's size differs from its image's, or only some
                detections have masks or keypoints.
            TrainingError: boxes, scores or keypoints are non-finite.
        """
        masks = [_encode(info, one.masks) for info, one in zip(infos, predictions) if one.masks is not None]
        keypoints = [one.keypoints for one in predictions if one.keypoints is not None]
        packed = cls(
            np.array([info.image_id for info in infos], np.int64),
            np.array([len(one) for one in predictions], np.int64),
            np.array([(info.height, info.width) for info in infos], np.int64).reshape(-1, 2),
            _column([one.boxes for one in predictions]).reshape(-1, 4),
            _column([one.scores for one in predictions]),
            torch.cat([one.labels for one in predictions]).int().cpu().numpy(),
            np.concatenate(masks) if masks else None,
            _column(keypoints) if keypoints else None,
        )
        for name, column in (("masks", packed.masks), ("keypoints", packed.keypoints)):
            if column is not None and len(column) != len(packed.scores):
                raise DataError(f"{infos[0].path}: some detections of a batch have {name}, others have none")
        wrong = (packed.labels < 0) | (packed.labels >= num_classes)
        if wrong.any():
            info, label = packed._first_info(wrong, infos), packed.labels[wrong][0]
            raise DataError(
                f"{info.path}: a detection has label {label}, but the dataset has {pluralize(num_classes, 'class')} "
                f"(0 … {num_classes - 1}); evaluate the model on the classes it was trained for"
            )
        finite = np.isfinite(packed.scores) & np.isfinite(packed.boxes).all(1)
        if packed.keypoints is not None:
            finite &= np.isfinite(packed.keypoints).all((1, 2))
        if not finite.all():
            info = packed._first_info(~finite, infos)
            raise TrainingError(
                f"{info.path}: a detection has a NaN or infinite value; the model's weights have diverged"
            )
        return packed

    def _first_info(self, selected: NDArray[np.bool_], infos: Sequence[ImageInfo]) -> ImageInfo:
        """The ImageInfo of the first detection for which `selected` `[D]` is true."""
        return infos[int(np.repeat(np.arange(len(infos)), self.counts)[selected.argmax()])]

    @classmethod
    def concatenate(cls, parts: Sequence[PackedDetections]) -> PackedDetections:
        """Concatenate several PackedDetections.

        Raises:
            DataError: some have masks or keypoints, but others do not.
        """
        columns: list[Any] = []
        for name in _COLUMNS:
            present = [column for part in [_EMPTY, *parts] if (column := getattr(part, name)) is not None]
            columns.append(np.concatenate(present) if present else None)
        joined = cls(*columns)
        for name, column in (("masks", joined.masks), ("keypoints", joined.keypoints)):
            if column is not None and len(column) != len(joined.scores):
                raise DataError(f"the model predicted {name} for some images, but not for others")
        return joined

    def unique(self) -> PackedDetections:
        """Sort by image id, and keep the first entry of an image that occurs more than once."""
        image_ids, first = np.unique(self.image_ids, return_index=True)
        counts = self.counts[first]
        starts = (np.cumsum(self.counts) - self.counts)[first]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(starts, counts) + within
        columns = [getattr(self, name) for name in _COLUMNS[3:]]
        selected: list[Any] = [None if column is None else column[rows] for column in columns]
        return PackedDetections(image_ids, counts, self.sizes[first], *selected)

    def gather(self) -> PackedDetections:
        """Gather the detections of all ranks, sorted by image id. Every rank receives the same result."""
        return PackedDetections.concatenate(all_gather_object(self)).unique()

    def most_per_class(self) -> int:
        """The largest number of detections of one class in an image."""
        keys = np.stack([np.repeat(self.image_ids, self.counts), self.labels], 1)
        return int(np.unique(keys, axis=0, return_counts=True)[1].max(initial=0))

    def iou_types(self) -> list[IouType]:
        """The IoU types for which these detections can be evaluated."""
        return [iou_type for iou_type, column in MEASURED_ON.items() if getattr(self, column) is not None]

    def to_array(self, category_ids: Sequence[int]) -> NDArray[np.float64]:
        """Convert to COCO's array format for `loadRes`, `[D, 7]`: image id, x, y, width, height, score, category id."""
        array = np.empty((len(self.scores), 7))
        array[:, 0] = np.repeat(self.image_ids, self.counts)
        array[:, 1:5] = self.boxes
        array[:, 3:5] -= array[:, 1:3]
        array[:, 5] = self.scores
        array[:, 6] = np.asarray(category_ids, np.float64)[self.labels]
        return array

    def to_results(
        self, category_ids: Sequence[int], iou_types: Sequence[IouType], digits: int | None = None
    ) -> list[dict[str, Any]]:
        """Convert to COCO's results format: one dict per detection, with the fields that `iou_types` need.

        COCO's tools set the `area` of a result with "bbox" to that of the box. To evaluate masks and keypoints, leave
        out "bbox"; `area` is then that of the mask, or of the keypoints' bounding box.

        Args:
            category_ids: the category id of each label.
            iou_types: the IoU types to include.
            digits: number of decimals of coordinates; scores have two more. None keeps full precision.
        """
        if not len(self.scores):
            return []
        array = self.to_array(category_ids)  # its ids are floats, which are not exact above 2^53
        fields: dict[str, list[Any]] = {
            "image_id": np.repeat(self.image_ids, self.counts).tolist(),
            "category_id": np.asarray(category_ids, np.int64)[self.labels].tolist(),
        }
        if "bbox" in iou_types:
            fields["bbox"] = _round(array[:, 1:5], digits).tolist()
        if "segm" in iou_types:
            assert self.masks is not None
            sizes = np.repeat(self.sizes, self.counts, axis=0).tolist()
            fields["segmentation"] = [
                {"size": size, "counts": counts.decode("ascii")} for size, counts in zip(sizes, self.masks)
            ]
        if "keypoints" in iou_types:
            assert self.keypoints is not None
            points = self.keypoints.astype(np.float64)
            # The center of the first pixel is 0 in COCO's files and 0.5 in our coordinates.
            points[:, :, :2] = _round(points[:, :, :2] - 0.5, digits)
            points[:, :, 2] = _round(points[:, :, 2], digits, more=2)
            fields["keypoints"] = points.reshape(len(points), -1).tolist()
        fields["score"] = _round(array[:, 5], digits, more=2).tolist()
        return [dict(zip(fields, values)) for values in zip(*fields.values())]


def _column(tensors: Sequence[Tensor]) -> NDArray[np.float32]:
    return torch.cat(list(tensors)).float().cpu().numpy()


def _round(values: NDArray[np.float64], digits: int | None, more: int = 0) -> NDArray[np.float64]:
    return values if digits is None else values.round(digits + more)


def _encode(info: ImageInfo, masks: Tensor) -> NDArray[np.object_]:
    """Encode masks `[D, H, W]` bool as `[D]` compressed RLEs (bytes)."""
    if masks.shape[1:] != (info.height, info.width):
        raise DataError(
            f"{info.path}: the masks have {masks.shape[2]}×{masks.shape[1]} px, but the image has "
            f"{info.width}×{info.height}"
        )
    encoded = np.empty(len(masks), object)
    if len(masks):
        encoded[:] = [one["counts"] for one in hotcoco.mask.encode(masks.cpu().numpy().transpose(1, 2, 0))]
    return encoded


_COLUMNS = tuple(PackedDetections.__dataclass_fields__)
_EMPTY = PackedDetections(
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty((0, 2), np.int64),
    np.empty((0, 4), np.float32),
    np.empty(0, np.float32),
    np.empty(0, np.int32),
)


def coco_results(prediction: Any, info: ImageInfo, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The detections of one image in COCO's results format, with `file_name` and `category_name` beside the ids.

    Category ids are 1, 2, … in the order of the classes.

    Raises:
        ConfigError: the prediction is not Detections.
    """
    if not isinstance(prediction, Detections):
        raise ConfigError(f"--predictions writes detections, but the model predicts {type(prediction).__name__}")
    packed = PackedDetections.pack([info], [prediction], len(classes))
    results = packed.to_results(range(1, len(classes) + 1), packed.iou_types(), digits=3)
    names = {"file_name": info.path}
    return [result | names | {"category_name": classes[result["category_id"] - 1]} for result in results]
