"""What lies behind one AP: the curves, each class's share, what is taken for what, and which errors cost how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from chordate.evaluation.pr_curves import THRESHOLDS, Curves

IOU, SCORE = 0.5, 0.5  # at which detections are sorted into hits, confusions and errors

# Bolya et al. 2020, "TIDE", section 2.2, in the order of its figures.
ERRORS = {
    "Cls": "wrong class",
    "Loc": "badly placed",
    "Both": "wrong class and badly placed",
    "Dupe": "found twice",
    "Bkg": "background taken for an object",
    "Miss": "missed",
}


def describe(curves: Curves, judge: hotcoco.COCOeval, names: Sequence[str], iou_type: str) -> dict[str, Any]:
    """Everything about one IoU type, of plain numbers and lists.

    Args:
        curves: from the evaluation.
        judge: hotcoco's evaluation of the same detections, matched.
        names: of the classes, in the order of the curves.
        iou_type: what overlap is measured on.

    Returns:
        `numbers`: COCO's, by name.
        `precision_recall`: `recall` (0, 0.01 … 1), and `precision` at each of these: by IoU threshold ("0.50" …) the
            mean over classes with ground truth, and `by_class` (at IoU 0.50; null without ground truth).
        `confusion`: at IoU 0.5, of detections that score at least 0.5: `matrix` counts, a row for what the ground
            truth says and a column for what was found, in the order of `classes`; the last of each is the background,
            so that its column counts missed objects, and its row things that are not there (members of a crowd too).
            Not of keypoints: there hotcoco would compare boxes.
        `errors`: TIDE's: by kind what AP50 would gain without it (`gain`) and how many there are (`count`); `FP` and
            `FN`, the gain without any false positive and without any miss.
    """
    tide = judge.tide_errors(pos_thr=IOU)
    at = {f"{iou:.2f}": _mean(curves.precision[row, :, :, 0, -1]) for row, iou in enumerate(THRESHOLDS)}
    each = curves.precision[0, :, :, 0, -1].T
    found: dict[str, Any] = {
        "numbers": curves.summary(),
        "precision_recall": {
            "recall": np.linspace(0, 1, curves.precision.shape[1]).round(2).tolist(),
            "precision": at,
            "by_class": {name: _plain(line) for name, line in zip(names, each, strict=True)},
        },
        "errors": {
            "AP50": tide["ap_base"],
            "kinds": {
                kind: {"meaning": meaning, "gain": tide["delta_ap"][kind], "count": tide["counts"][kind]}
                for kind, meaning in ERRORS.items()
            },
            "FP": tide["delta_ap"]["FP"],
            "FN": tide["delta_ap"]["FN"],
        },
    }
    if iou_type != "keypoints":
        matrix = judge.confusion_matrix(iou_thr=IOU, min_score=SCORE)["matrix"].tolist()
        found["confusion"] = {"classes": [*names, "background"], "matrix": matrix, "iou": IOU, "score": SCORE}
    return found


def _mean(precision: NDArray[np.float64]) -> list[float] | None:
    """Of `[R, K]` over the classes with ground truth."""
    known = precision[:, (precision > -1).all(axis=0)]
    return known.mean(axis=1).tolist() if known.size else None


def _plain(line: NDArray[np.float64]) -> list[float] | None:
    return line.tolist() if (line > -1).all() else None
