"""The degradation experiment (He et al. 2016, figures 1 and 6): plain nets get worse with depth, ResNets do not.

Trains four networks on CIFAR-10 with the same recipe and plots their training and test errors:

    python tools/analysis/degradation.py --data-root cifar10.zip [--iterations 64000] [--depths 20 56]

The same command resumes an interrupted run; several processes may share the work (`--only plain56 resnet20`), and
`--plot` only plots the results so far.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chordate.cli.main import main

KINDS = ("plain", "resnet")
COLORS = ("#d99a2b", "#1f4e9c")  # of the shallow and the deep network of each panel
PAPER = 64_000  # number of iterations in the paper; the learning rate drops after half and 3/4 of them
POINTS = 100  # number of points of the training curve


def train(name: str, arguments: argparse.Namespace) -> int:
    """Train one network, such as `plain20` or `resnet56`; returns 0 on success."""
    iterations = arguments.iterations
    settings = [
        f"train.iterations={iterations}",
        f"schedule.milestones=[{iterations // 2},{iterations * 3 // 4}]",
        f"train.eval_every={max(1, iterations // 20)}",
        f"train.save_every={max(1, iterations // 20)}",
        f"train.log_every={max(1, iterations // (5 * POINTS))}",
        *arguments.cfg_options,
    ]
    work_dir = arguments.work_dir / name
    log = work_dir / "log.jsonl"
    if log.is_file() and iterations <= max(json.loads(line)["iteration"] for line in log.read_text().splitlines()):
        return 0
    command = ["train", f"{name}_cifar10", "--data-root", arguments.data_root, "--work-dir", str(work_dir), "--resume"]
    return main([*command, "--cfg-options", *settings])


def curves(log: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read training and test errors from a log: two arrays `[points, 2]` of iteration and error in percent."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    training = np.array([(r["iteration"], 100 * r["error"]) for r in records if r["mode"] == "train"])
    test = np.array([(r["iteration"], 100 * r["error"]) for r in records if r["mode"] == "val"])
    block = max(1, len(training) // POINTS)
    training = training[: len(training) // block * block].reshape(-1, block, 2).mean(axis=1)
    return training, test.reshape(-1, 2)


def plot(names: list[str], arguments: argparse.Namespace) -> Path:
    """Plot two panels as in the paper's figure 6: plain nets at the left, residual nets at the right."""
    figure = Figure(figsize=(11, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, kind, title in zip(axes, KINDS, ("plain networks", "residual networks")):
        for depth, color in zip(arguments.depths, COLORS):
            log = arguments.work_dir / f"{kind}{depth}" / "log.jsonl"
            if f"{kind}{depth}" not in names or not log.is_file():
                continue
            training, test = curves(log)
            axis.plot(*training.T, color=color, lw=1, ls="--")
            if len(test):
                axis.plot(*test.T, color=color, lw=2.2, label=f"{depth} layers: {test[-1, 1]:.1f} %")
        axis.set(title=title, xlabel="iteration", ylim=(0, 70))
        axis.grid(color="0.92", lw=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, title="test error (bold) at the end; dashed: training")
    axes[0].set_ylabel("error / %")
    picture = arguments.work_dir / "degradation.png"
    figure.savefig(picture)
    return picture


def degradation() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", required=True, help="CIFAR-10: a folder or zip, see data/cifar.py")
    parser.add_argument("--iterations", type=int, default=PAPER, help=f"per network ({PAPER:,} in the paper)")
    parser.add_argument("--depths", type=int, nargs=2, default=(20, 56), metavar=("SHALLOW", "DEEP"))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="train only these networks")
    parser.add_argument("--plot", action="store_true", help="only plot the results so far")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/degradation"))
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all networks")
    arguments = parser.parse_args()
    names = [f"{kind}{depth}" for kind in KINDS for depth in arguments.depths]
    unknown = sorted(set(arguments.only) - set(names))
    if unknown:
        parser.error(f"--only {unknown[0]}: the four networks are {', '.join(names)}")
    for name in () if arguments.plot else arguments.only or names:
        status = train(name, arguments)
        if status:
            return status
    print(plot(names, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(degradation())
