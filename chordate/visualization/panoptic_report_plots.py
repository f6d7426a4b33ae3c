"""Plots a PanopticReport (PQ by class, images with the lowest PQ), and writes its data as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from chordate.evaluation.panoptic_report import PanopticReport
from chordate.visualization.canvas import write_image
from chordate.visualization.class_plots import ClassBar, class_bars
from chordate.visualization.side_by_side import ranked_sheet
from chordate.visualization.style import plain_label, save
from chordate.visualization.task_drawing import plot_report


@plot_report.register
def plot_panoptic_report(report: PanopticReport, folder: str | Path) -> list[Path]:
    """Write the files `report.json`, `classes.png` and `worst.png`.

    Args:
        report: the report, from `PanopticMetric.report`.
        folder: folder to write to; it is created if it does not exist.

    Returns:
        The paths of the files.

    Raises:
        OSError: the folder cannot be created, or `report.json` cannot be written.
        DataError: a PNG cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in ("report.json", "classes.png", "worst.png")]
    content = {
        "numbers": report.numbers,
        "per_class": report.per_class,
        "worst": [{"file": image.original.infos[0].path, "PQ": image.score} for image in report.worst],
    }
    written[0].write_text(json.dumps(content, indent=1) + "\n")
    bars = [
        ClassBar(f"{plain_label(name)}  ({row['TP'] + row['FN']:,})", row["PQ"], row["RQ"])
        for name, row in report.per_class.items()
        if row["PQ"] >= 0
    ]
    title = "PQ by class (number of segments)"
    save(class_bars(bars, title, ("PQ", "RQ"), report.numbers["PQ"], "mean PQ"), written[1])
    write_image(written[2], ranked_sheet(report.worst, "PQ", report.meta))
    return written
