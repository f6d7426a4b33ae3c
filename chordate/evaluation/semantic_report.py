"""SemanticReport: scores per class, the confusion matrix, and the images with the lowest IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chordate.structures import Batch, DatasetMeta
from chordate.structures.semantic import SemanticMap


@dataclass(frozen=True)
class RankedImage:
    """An image, its prediction and its score.

    Attributes:
        iou: IoU of the image, averaged over the classes in its ground truth.
        original: the untransformed image with its targets, as a batch of size 1.
        prediction: the prediction, at the original size of the image.
    """

    iou: float
    original: Batch
    prediction: SemanticMap


@dataclass(frozen=True)
class SemanticReport:
    """The report of SemanticMetric.

    Attributes:
        numbers: the metrics, see `SemanticMetric`.
        per_class: the metrics of each class, see `SemanticMetric.per_class`.
        confusion: `[K, K]` numbers of pixels; rows are ground-truth classes, columns are predicted classes.
        worst: the images with the lowest IoU, in ascending order of IoU.
        meta: class names and palette.
    """

    numbers: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    confusion: NDArray[np.uint64]
    worst: Sequence[RankedImage]
    meta: DatasetMeta
