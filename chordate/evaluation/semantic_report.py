"""SemanticReport: scores per class, the confusion matrix, and the images with the lowest IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chordate.evaluation.ranked_images import RankedImage
from chordate.structures import DatasetMeta


@dataclass(frozen=True)
class SemanticReport:
    """The report of SemanticMetric.

    Attributes:
        numbers: the metrics, see `SemanticMetric`.
        per_class: the metrics of each class, see `SemanticMetric.per_class`.
        confusion: `[K, K]` numbers of pixels; rows are ground-truth classes, columns are predicted classes.
        worst: the images with the lowest IoU (averaged over the classes in their ground truth), in ascending order.
        meta: class names and palette.
    """

    numbers: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    confusion: NDArray[np.uint64]
    worst: Sequence[RankedImage]
    meta: DatasetMeta
