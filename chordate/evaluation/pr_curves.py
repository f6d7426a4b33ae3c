"""COCO's precision-recall curves, and the metrics computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # 0.50, 0.55 … 0.95


@dataclass(frozen=True)
class PRCurves:
    """Precision and recall as COCO's evaluation accumulates them; -1 without ground truth.

    Dimensions: `T` IoU thresholds (IOU_THRESHOLDS), `R` recalls (0, 0.01 … 1), `K` categories (those of
    `EvalSpec.labels`, in order), `A` area ranges, `M` limits on the detections per image and class.

    Attributes:
        precision: `[T, R, K, A, M]`, precision at each recall.
        recall: `[T, K, A, M]`, the highest recall reached.
        max_dets: the `M` limits, ascending.
        areas: names of the `A` area ranges: "all", "small" (up to 32² pixels; not for keypoints), "medium" (up to 96²),
            "large".
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    max_dets: tuple[int, ...]
    areas: tuple[str, ...]

    def average_precision(self, iou: float | None = None, area: str = "all", category: int | None = None) -> float:
        """Average precision, 0 … 1, at the last limit of `max_dets`; -1 without ground truth.

        Args:
            iou: one of IOU_THRESHOLDS; None averages over all of them.
            area: one of `areas`.
            category: index of a category in `K`; None averages over all categories.
        """
        selected = self.precision[_iou_rows(iou), :, _categories(category), self.areas.index(area), -1]
        return _mean(selected)

    def average_recall(
        self, limit: int = -1, iou: float | None = None, area: str = "all", category: int | None = None
    ) -> float:
        """Average recall, with the arguments of `average_precision`; `limit` is an index into `max_dets`."""
        return _mean(self.recall[_iou_rows(iou), _categories(category), self.areas.index(area), limit])

    def summary(self) -> dict[str, float]:
        """COCO's summary metrics in COCO's order: twelve for boxes and masks, ten for keypoints (a single limit)."""
        if len(self.max_dets) == 1:
            recalls = {
                name: self.average_recall(iou=iou) for name, iou in (("AR", None), ("AR50", 0.5), ("AR75", 0.75))
            }
        else:
            recalls = {f"AR{most}": self.average_recall(limit) for limit, most in enumerate(self.max_dets)}
        return {
            "AP": self.average_precision(),
            "AP50": self.average_precision(iou=0.5),
            "AP75": self.average_precision(iou=0.75),
            **{f"AP{area[0]}": self.average_precision(area=area) for area in self.areas[1:]},
            **recalls,
            **{f"AR{area[0]}": self.average_recall(area=area) for area in self.areas[1:]},
        }


def _iou_rows(iou: float | None) -> slice:
    """Slice that selects one IoU threshold, or all."""
    if iou is None:
        return slice(None)
    row = IOU_THRESHOLDS.index(iou)
    return slice(row, row + 1)


def _categories(category: int | None) -> slice:
    return slice(None) if category is None else slice(category, category + 1)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not -1 (no ground truth); -1 if all are -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
