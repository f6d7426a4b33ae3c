"""Top-down pose estimation: the keypoints of one object per crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from chordate.structures.batch import ImageInfo, Sample, Targets
from chordate.structures.detection import Detections
from chordate.structures.layout import Layout

Row = tuple[float, float, float]
Matrix = tuple[Row, Row]
IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@dataclass
class CropInfo(ImageInfo):
    """The source of a crop of one object; `image_id` is the index of the object in its dataset.

    Attributes:
        box: x1, y1, x2, y2 of the object in pixels of the original image.
        size: height and width of the crop in pixels.
        score: of the box, 0 … 1.
        label: class of the object.
        matrix: affine map from pixels of the crop to pixels of the original image, continuous coordinates: rows
            `(a, b, c)` of x' = a x + b y + c and of y'.
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
        """The whole image as the box of an object.

        Args:
            info: of the original image.
            size: height and width of the image in the batch, which is a resized original.
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
    """The keypoints of one object per image of a batch, in pixels of the image.

    Attributes:
        keypoints: `[N, K, 3]` float32 x, y in continuous pixels and COCO's visibility (0 not labeled, 1 hidden, 2
            visible).
        boxes: `[N, 4]` float32 x1, y1, x2, y2.
        labels: `[N]` int64 class of each object.
    """

    keypoints: Annotated[Tensor, Layout("N", "K", 3, dtype=torch.float32)]
    boxes: Annotated[Tensor, Layout("N", 4, dtype=torch.float32)]
    labels: Annotated[Tensor, Layout("N", dtype=torch.int64)]

    legend: ClassVar[str] = "the object's left is orange, its right green"

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> Self:
        """Collate the first object of each sample."""

        def pack(name: str) -> Tensor:
            return torch.stack([sample[name].as_subclass(Tensor)[0] for sample in samples])

        return cls(pack("keypoints"), pack("boxes"), pack("labels"))

    def describe(self, index: int) -> str:
        visibility = self.keypoints[index, :, 2]
        return f"{int((visibility > 0).sum())} of {len(visibility)} keypoints"


@dataclass
class Poses(Detections):
    """Objects of one image with their keypoints, highest score first.

    Attributes:
        boxes, scores, labels: see `Detections`; the box is the one that was cropped.
        keypoints: `[D, K, 3]` x, y in pixels of the original image and confidence 0 … 1.
    """

    def describe(self) -> str:
        return f"{len(self) or 'no'} pose{'' if len(self) == 1 else 's'}"
