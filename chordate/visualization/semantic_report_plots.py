"""Plots a SemanticReport (IoU by class, confusion matrix, images with the lowest IoU), and writes its data as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from chordate.evaluation.semantic_report import SemanticReport
from chordate.visualization.canvas import write_image
from chordate.visualization.class_plots import ClassBar, class_bars, confusion_matrix
from chordate.visualization.side_by_side import ranked_sheet
from chordate.visualization.style import plain_label, save
from chordate.visualization.task_drawing import plot_report


@plot_report.register
def plot_semantic_report(report: SemanticReport, folder: str | Path) -> list[Path]:
    """Write the files `report.json`, `classes.png`, `confusion.png` and `worst.png`.

    Args:
        report: the report, from `SemanticMetric.report`.
        folder: folder to write to; it is created if it does not exist.

    Returns:
        The paths of the files.

    Raises:
        OSError: the folder cannot be created, or `report.json` cannot be written.
        DataError: a PNG cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in ("report.json", "classes.png", "confusion.png", "worst.png")]
    content = {
        "numbers": report.numbers,
        "per_class": report.per_class,
        "confusion": {"classes": report.meta.classes, "matrix": report.confusion.tolist()},
        "worst": [{"file": image.original.infos[0].path, "IoU": image.score} for image in report.worst],
    }
    written[0].write_text(json.dumps(content, indent=1) + "\n")
    pixels = sum(row["pixels"] for row in report.per_class.values())
    bars = [
        ClassBar(f"{plain_label(name)}  ({100 * row['pixels'] / pixels:.1f} %)", row["IoU"], row["Acc"])
        for name, row in report.per_class.items()
        if row["pixels"]
    ]
    title = "IoU by class (% of pixels)"
    save(class_bars(bars, title, ("IoU", "accuracy"), report.numbers["mIoU"], "mIoU"), written[1])
    used = (report.confusion.sum(axis=0) > 0) | (report.confusion.sum(axis=1) > 0)
    names = [plain_label(name) for name, is_used in zip(report.meta.classes, used) if is_used]
    matrix = report.confusion[used][:, used].astype(np.float64)
    save(confusion_matrix(matrix, names, "confusion matrix, % of the row", lambda _, part: _percent(part)), written[2])
    write_image(written[3], ranked_sheet(report.worst, "IoU", report.meta))
    return written


def _percent(fraction: float) -> str:
    """The text of a cell: the fraction in percent; empty below half a percent."""
    return f"{100 * fraction:.0f}" if fraction >= 0.005 else ""
