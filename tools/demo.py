"""`make demo`: generate a dataset, train a small Mask R-CNN on it, and draw its predictions."""

import sys
from pathlib import Path

from chordate.cli.main import main
from chordate.data.shapes import generate_shapes

CONFIG = "mask-rcnn_r18_fpn_demo_shapes"
DATA, OUT = Path("data/shapes"), Path("work_dirs/demo")


def demo() -> int:
    """Write the log, checkpoints, training.png, metrics.json and predictions.png to `work_dirs/demo/`."""
    if not (DATA / "annotations/val.json").is_file():
        generate_shapes(DATA)
    data = ["--data-root", str(DATA)]
    best = str(OUT / "best_bbox_AP.pt")
    return main(["train", CONFIG, "--work-dir", str(OUT), *data]) or main(
        ["test", CONFIG, best, "--out", str(OUT / "metrics.json"), "--picture", str(OUT / "predictions.png"), *data]
    )


if __name__ == "__main__":
    sys.exit(demo())
