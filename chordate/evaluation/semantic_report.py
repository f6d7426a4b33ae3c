"""Details of a semantic segmentation: scores and confusions of the classes, and the images with the lowest scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chordate.structures import Batch, DatasetMeta
from chordate.structures.semantic import SemanticMap


@dataclass(frozen=True)
class RankedImage:
    """An image and its prediction.

    Attributes:
        iou: mean IoU of the classes in the image's ground truth.
        original: the image with its targets, a batch of one.
        prediction: at the image's own size.
    """

    iou: float
    original: Batch
    prediction: SemanticMap


@dataclass(frozen=True)
class SemanticReport:
    """The report of SemanticMetric.

    Attributes:
        numbers: as the metric's.
        per_class: as `SemanticMetric.per_class`.
        confusion: `[K, K]` pixels, a row per true class and a column per predicted class.
        worst: the images with the lowest IoU, the lowest first.
        meta: class names and palette.
    """

    numbers: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    confusion: NDArray[np.uint64]
    worst: Sequence[RankedImage]
    meta: DatasetMeta
