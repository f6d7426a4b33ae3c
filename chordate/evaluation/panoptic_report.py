"""PanopticReport: scores per class, and the images with the lowest panoptic quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chordate.evaluation.ranked_images import RankedImage
from chordate.structures import DatasetMeta


@dataclass(frozen=True)
class PanopticReport:
    """The report of PanopticMetric.

    Attributes:
        numbers: the metrics, see `PanopticMetric`.
        per_class: the metrics of each class, see `PanopticMetric.per_class`.
        worst: the images with the lowest PQ, in ascending order of PQ.
        meta: class names, stuff and palette.
    """

    numbers: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    worst: Sequence[RankedImage]
    meta: DatasetMeta
