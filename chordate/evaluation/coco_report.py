"""Detailed report on COCO's AP: precision-recall curves, AP per class, confusion matrix, TIDE errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from chordate.evaluation.packed_detections import IouType
from chordate.evaluation.pr_curves import IOU_THRESHOLDS, PRCurves

# The IoU threshold of the confusion matrix and the TIDE errors; the score threshold of the confusion matrix.
REPORT_IOU, REPORT_SCORE = 0.5, 0.5

# The error types of Bolya et al. 2020, "TIDE", section 2.2, in the order of its figures.
TIDE_ERRORS = {
    "Cls": "classification",
    "Loc": "localization",
    "Both": "classification and localization",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


@dataclass(frozen=True)
class CocoReport:
    """The report of CocoMetric, as dicts, lists and numbers that can be saved as JSON.

    Attributes:
        by_iou_type: for each evaluated IoU type ("bbox", "segm", "keypoints"), a dict with these keys:
            `numbers`: COCO's summary metrics, keyed by name.
            `precision_recall`: `recall`, the recalls 0, 0.01 … 1; `precision`, a dict from IoU threshold ("0.50" …) to
            the precision at each recall, averaged over the classes with ground truth; `by_class`, a dict from class
            name to the precision at each recall at IoU 0.50 (None without ground truth).
            `confusion`: the confusion matrix at IoU 0.5 of detections that score at least 0.5. `matrix` has a row per
            true class and a column per predicted class, in the order of `classes`; the last column counts missed
            objects, the last row false positives (including detections of crowd members). `iou` and `score` are the
            thresholds. There is no `confusion` for keypoints, since hotcoco would compare boxes.
            `errors`: `AP50`; `kinds`, a dict from TIDE error type to its `meaning`, its `gain` (dAP, the AP50 gained by
            fixing these errors) and its `count`; `FP` and `FN`, the gains of fixing all false positives and all misses.
            `per_class`: the metrics of each class, as in `CocoMetric.per_class`.
    """

    by_iou_type: Mapping[IouType, Mapping[str, Any]]


def describe_curves(
    curves: PRCurves, evaluator: hotcoco.COCOeval, per_class: Mapping[str, Mapping[str, float]], iou_type: IouType
) -> dict[str, Any]:
    """Make the report for one IoU type (see `CocoReport.by_iou_type`).

    Args:
        curves: the precision-recall curves of the evaluation.
        evaluator: hotcoco's evaluator of the detections of `curves`, after `evaluate`.
        per_class: dict from class name to metrics, in the order of the categories of `curves`.
        iou_type: "bbox", "segm" or "keypoints".
    """
    names: Sequence[str] = list(per_class)
    tide = evaluator.tide_errors(pos_thr=REPORT_IOU)
    report: dict[str, Any] = {
        "numbers": curves.summary(),
        "precision_recall": {
            "recall": np.linspace(0, 1, curves.precision.shape[1]).round(2).tolist(),
            "precision": {
                f"{iou:.2f}": _class_mean(curves.precision[row, :, :, 0, -1]) for row, iou in enumerate(IOU_THRESHOLDS)
            },
            "by_class": {
                name: _known(line) for name, line in zip(names, curves.precision[0, :, :, 0, -1].T, strict=True)
            },
        },
        "errors": {
            "AP50": tide["ap_base"],
            "kinds": {
                kind: {"meaning": meaning, "gain": tide["delta_ap"][kind], "count": tide["counts"][kind]}
                for kind, meaning in TIDE_ERRORS.items()
            },
            "FP": tide["delta_ap"]["FP"],
            "FN": tide["delta_ap"]["FN"],
        },
    }
    if iou_type != "keypoints":
        matrix = evaluator.confusion_matrix(iou_thr=REPORT_IOU, min_score=REPORT_SCORE)["matrix"].tolist()
        classes = [*names, "background"]
        report["confusion"] = {"classes": classes, "matrix": matrix, "iou": REPORT_IOU, "score": REPORT_SCORE}
    return {**report, "per_class": per_class}


def _class_mean(precision: NDArray[np.float64]) -> list[float] | None:
    """Average precisions `[R, K]` over the classes with ground truth: `R` values; None if no class has ground truth."""
    known = precision[:, (precision > -1).all(axis=0)]
    return known.mean(axis=1).tolist() if known.size else None


def _known(line: NDArray[np.float64]) -> list[float] | None:
    return line.tolist() if (line > -1).all() else None
