"""Top-down pose estimation: targets and predictions with the keypoints of one object per crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from chordate.structures.batch import ImageInfo, Sample, Targets
from chordate.structures.detection import Detections
from chordate.structures.layout import Layout
from chordate.structures.metadata import DatasetMeta
from chordate.structures.statistics import Statistic, box_statistics, keypoint_statistics

Row = tuple[float, float, float]
Matrix = tuple[Row, Row]
OUTSIDE = 0.5  # fraction of the box's side; keypoints farther outside the box may be annotation errors
IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@dataclass
class CropInfo(ImageInfo):
    """Where a crop of one object comes from. `image_id` is the index of the object in the dataset.

    Attributes:
        box: x1, y1, x2, y2 of the object in pixels of the original image.
        size: height and width of the crop in pixels.
        score: score of the box, 0 … 1.
        label: class of the object.
        matrix: affine matrix from crop coordinates to coordinates of the original image, in continuous pixel
            coordinates: two rows `(a, b, c)`, x' = a x + b y + c and likewise y'.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    score: float = 1.0
    label: int = 0
    matrix: Matrix = IDENTITY

    @property
    def area(self) -> float:
        """Area of the crop in square pixels of the original image."""
        (a, b, _), (c, d, _) = self.matrix
        return abs(a * d - b * c) * self.size[0] * self.size[1]

    @classmethod
    def whole(cls, info: ImageInfo, size: Sequence[int]) -> Self:
        """Make the CropInfo of an image that is not cropped: the whole image is the object.

        Args:
            info: the ImageInfo of the image; a CropInfo is returned unchanged.
            size: height and width of the image in the batch, which may be resized.
        """
        if isinstance(info, cls):
            return info
        height, width = int(size[0]), int(size[1])
        matrix = (info.width / width, 0.0, 0.0), (0.0, info.height / height, 0.0)
        box = 0.0, 0.0, float(info.width), float(info.height)
        own = info.image_id, info.path, info.height, info.width
        return cls(*own, box=box, size=(height, width), matrix=matrix)


@dataclass
class PoseTargets(Targets):
    """Ground truth of top-down pose estimation: one object per image of the batch, in pixels of the batch.

    Attributes:
        keypoints: `[N, K, 3]` float32, x and y in continuous pixel coordinates, and COCO's visibility (0 not labeled,
            1 hidden, 2 visible).
        boxes: `[N, 4]` float32 x1, y1, x2, y2.
        labels: `[N]` int64, class of each object.
    """

    keypoints: Annotated[Tensor, Layout("N", "K", 3, dtype=torch.float32)]
    boxes: Annotated[Tensor, Layout("N", 4, dtype=torch.float32)]
    labels: Annotated[Tensor, Layout("N", dtype=torch.int64)]

    legend: ClassVar[str] = "the object's left side is orange, its right side green"
    counted: ClassVar[str] = "objects"

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> Self:
        """Collate the first object of each sample."""

        def pack(name: str) -> Tensor:
            return torch.stack([sample[name].as_subclass(Tensor)[0] for sample in samples])

        return cls(pack("keypoints"), pack("boxes"), pack("labels"))

    def class_counts(self, classes: int) -> Tensor:
        return torch.bincount(self.labels, minlength=classes)

    def statistics(self, meta: DatasetMeta) -> dict[str, Statistic]:
        """The sizes and aspect ratios of the boxes, and the labeled keypoints."""
        assert meta.skeleton is not None
        return box_statistics(self.boxes) | keypoint_statistics(self.keypoints, meta.skeleton.names)

    def suspicions(self, index: int) -> tuple[str, ...]:
        points, (x1, y1, x2, y2) = self.keypoints[index], self.boxes[index].tolist()
        x, y = points[points[:, 2] > 0, :2].T
        wide, tall = OUTSIDE * (x2 - x1), OUTSIDE * (y2 - y1)
        outside = (x < x1 - wide) | (x > x2 + wide) | (y < y1 - tall) | (y > y2 + tall)
        phrases = {"no labeled keypoints": not len(x), "keypoints far outside the box": bool(outside.any())}
        return tuple(phrase for phrase, is_found in phrases.items() if is_found)

    def describe(self, index: int) -> str:
        visibility = self.keypoints[index, :, 2]
        return f"{int((visibility > 0).sum())} of {len(visibility)} keypoints"


@dataclass
class Poses(Detections):
    """Predicted objects of one image with their keypoints, highest score first.

    Attributes:
        boxes, scores, labels: see `Detections`; `boxes` are the boxes from which the crops were made.
        keypoints: `[D, K, 3]`, x and y in pixels of the original image, and confidence 0 … 1.
    """

    display_threshold: ClassVar[float] = 0.2  # a confidence is the height of a heatmap's peak, which is rarely near 1

    def describe(self) -> str:
        return f"{len(self) or 'no'} pose{'' if len(self) == 1 else 's'}"
