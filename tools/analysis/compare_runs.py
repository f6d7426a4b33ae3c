"""Plot one metric of several runs over their epochs in one picture.

python tools/analysis/compare_runs.py bbox_AP comparison.png "from scratch=work_dirs/a" "fine-tuned=work_dirs/b"
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

COLORS = ("#1f4e9c", "#d9662b", "#2a9d6f", "0.45", "#8a3fa0", "#b8860b")


def evaluations(folder: Path, metric: str) -> tuple[list[int], list[float]]:
    """Epochs and values of `metric` in the evaluations of a run."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    points = [(record["epoch"], record[metric]) for record in records if record["mode"] == "val"]
    return [epoch for epoch, _ in points], [value for _, value in points]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("metric", help="name in log.jsonl, such as bbox_AP or mIoU")
    parser.add_argument("out", help="picture to write")
    parser.add_argument("runs", nargs="+", metavar="LABEL=FOLDER")
    arguments = parser.parse_args()
    figure = Figure(figsize=(8, 4.6), dpi=130, layout="constrained")
    axis = figure.subplots()
    for run, color in zip(arguments.runs, COLORS, strict=False):
        label, _, folder = run.partition("=")
        epochs, values = evaluations(Path(folder), arguments.metric)
        axis.plot(epochs, values, color=color, lw=2, marker="o", ms=4, label=f"{label}: {values[-1]:.3f}")
    axis.set(xlabel="epoch", ylabel=f"validation {arguments.metric.replace('_', ' ')}", ylim=(0, None), xlim=(0, None))
    axis.grid(color="0.92", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
