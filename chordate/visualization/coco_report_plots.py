"""Plots a CocoReport (precision-recall curves, AP per class, confusion matrix, TIDE errors), and writes it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from chordate.evaluation.coco_report import CocoReport
from chordate.visualization.class_plots import ClassBar, class_bars, confusion_matrix
from chordate.visualization.style import FIRST, OTHERS, new_figure, plain_label, save, tidy
from chordate.visualization.task_drawing import plot_report

COLORED_CLASSES = 6  # number of curves with a color and a legend entry: those of the classes with the most objects
TITLES = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
SIMILARITIES = {"keypoints": "OKS"}  # similarity that the thresholds apply to; IoU for boxes and masks


@plot_report.register
def plot_coco_report(report: CocoReport, folder: str | Path) -> list[Path]:
    """Write `report.json`, and per IoU type `<iou_type>_precision_recall.png`, `…_classes.png`, `…_confusion.png` (not
    for keypoints) and `…_errors.png`.

    Args:
        report: from `CocoMetric.report`.
        folder: created if it does not exist.

    Returns:
        The files written.

    Raises:
        OSError: the folder cannot be created, or `report.json` cannot be written.
        DataError: a PNG cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "report.json"]
    written[0].write_text(json.dumps(report.by_iou_type, indent=1) + "\n")
    plots = {
        "precision_recall": plot_precision_recall,
        "classes": plot_classes,
        "confusion": plot_confusion,
        "errors": plot_errors,
    }
    for iou_type, content in report.by_iou_type.items():
        for name, plot in plots.items():
            if name == "confusion" and name not in content:
                continue
            written.append(folder / f"{iou_type}_{name}.png")
            save(plot(content, iou_type), written[-1])
    return written


def plot_precision_recall(content: Mapping[str, Any], iou_type: str) -> Figure:
    """Precision-recall curves. Left: mean over classes, per IoU or OKS threshold. Right: per class, at 0.50.

    The legend at the right lists the classes with the most objects.
    """
    similarity, curves = SIMILARITIES.get(iou_type, "IoU"), content["precision_recall"]
    figure = new_figure(11, 4.8)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, len(curves["precision"])))
    for shade, (threshold, precision) in zip(shades, curves["precision"].items()):
        if precision is not None:
            label = f"{threshold}   AP {np.mean(precision):.3f}"
            left.plot(curves["recall"], precision, color=shade, lw=1.5, label=label)
    left.set_title(f"{TITLES[iou_type]}: mean over classes, for thresholds of {similarity}", loc="left", fontsize=11)
    known = {name: line for name, line in curves["by_class"].items() if line is not None}
    order = sorted(known, key=lambda name: -content["per_class"][name]["instances"])
    for name in order[COLORED_CLASSES:]:
        right.plot(curves["recall"], known[name], color="0.85", lw=0.7)
    for name, color in zip(order[:COLORED_CLASSES], [FIRST, *OTHERS]):
        label = f"{plain_label(name)}   AP50 {np.mean(known[name]):.3f}"
        right.plot(curves["recall"], known[name], color=color, lw=1.6, label=label)
    which = "each class" if len(order) <= COLORED_CLASSES else f"top {COLORED_CLASSES} of {len(order)} classes by count"
    right.set_title(f"{which}, at {similarity} 0.50", loc="left", fontsize=11)
    left.set(ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
    for axis in (left, right):
        axis.set_xlabel("recall")
        tidy(axis)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), handlelength=1.4)
    return figure


def plot_classes(content: Mapping[str, Any], iou_type: str) -> Figure:
    """Bar chart of AP (in front) and AP50 (behind) for each class that has ground truth, sorted by AP."""
    known = {name: row for name, row in content["per_class"].items() if row["AP"] > -1}
    rows = [
        ClassBar(f"{plain_label(name)}  ({row['instances']:,})", row["AP"], row["AP50"]) for name, row in known.items()
    ]
    title = f"{TITLES[iou_type]}: AP of each class (number of objects)"
    return class_bars(rows, title, ("AP", "AP50"), content["numbers"]["AP"], "mean AP")


def plot_confusion(content: Mapping[str, Any], iou_type: str) -> Figure:
    """Confusion matrix, colored by row fraction; classes with neither objects nor detections are left out."""
    confusion = content["confusion"]
    matrix, names = np.array(confusion["matrix"], float), np.array([plain_label(n) for n in confusion["classes"]])
    used = (matrix.sum(axis=0) > 0) | (matrix.sum(axis=1) > 0)
    used[-1] = True
    matrix, names = matrix[used][:, used], names[used]
    at = f"score ≥ {confusion['score']:g}, IoU ≥ {confusion['iou']:g}"
    title = f"{TITLES[iou_type]}: confusion matrix\n{at}"
    figure = confusion_matrix(matrix, names.tolist(), title, lambda count, fraction: f"{int(count):,}")
    for edge in (figure.axes[0].axhline, figure.axes[0].axvline):
        edge(len(names) - 1.5, color="0.6", lw=0.8)  # separates the background
    return figure


def plot_errors(content: Mapping[str, Any], iou_type: str) -> Figure:
    """TIDE's error types (Bolya et al. 2020, section 2.2): for each, the AP50 gained by fixing it, and its count."""
    errors = content["errors"]
    rows = [(f"{k['meaning']}  ({name})", k["gain"], f"{k['count']:,}") for name, k in errors["kinds"].items()]
    rows += [("all false positives  (FP)", errors["FP"], ""), ("all misses  (FN)", errors["FN"], "")]
    places = [place + (place >= len(rows) - 2) * 0.5 for place in range(len(rows))]  # a gap before the totals FP, FN
    figure = new_figure(7.5, 3.6)
    axis = figure.subplots()
    gains = [gain for _, gain, _ in rows]
    axis.barh(places, gains, color=[OTHERS[0]] * (len(rows) - 2) + ["0.6"] * 2, height=0.7)
    reach = max(*gains, 0.05)
    for place, (_, gain, count) in zip(places, rows):
        axis.text(gain + 0.015 * reach, place, f"{gain:.3f}", va="center", fontsize=9)
        axis.text(1.3 * reach, place, count, va="center", ha="right", fontsize=9, color="0.35")
    axis.text(1.3 * reach, -0.85, "count", ha="right", fontsize=9, color="0.35")
    axis.set_yticks(places, [name for name, _, _ in rows], fontsize=9)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.3 * reach), xlabel="AP50 gained by fixing them")
    axis.set_title(f"{TITLES[iou_type]}: error types, AP50 {errors['AP50']:.3f}", loc="left", fontsize=11, pad=14)
    axis.tick_params(left=False)
    tidy(axis, "x")
    return figure
