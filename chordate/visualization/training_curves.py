"""Plots training curves: losses, learning rate and metrics over iterations."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from chordate.errors import DataError
from chordate.visualization.free_space import move_to_free_space
from chordate.visualization.style import FIRST, OTHERS, new_figure, plain_label, save, tidy

Records = Sequence[dict[str, Any]]

# Fields of a record that are neither losses nor metrics.
_BOOKKEEPING = {"mode", "epoch", "iteration", "lr", "grad_norm", "images_per_s", "memory_gb"}


def plot_training(
    log: str | Path, out: str | Path, *, lower_is_better: Collection[str] = (), first: str | None = None
) -> None:
    """Plot a run's `log.jsonl`: losses, learning rate and metrics over iterations.

    Args:
        log: path of the log; its lines are JSON objects, `{"mode": "train", "iteration", "lr", "loss", …}` with each of
            the losses, or `{"mode": "val", "iteration", "bbox_AP", …}`.
        out: the file to write; its extension selects the format.
        lower_is_better: names of the metrics that are better when lower.
        first: name of the metric to draw in bold with its best value marked, for example the value of
            `train.save_best`; by default, the first AP or else the first metric.

    Raises:
        DataError: the log cannot be read or has no training records, or `out` cannot be written.
    """
    training, evaluations = _read_log(Path(log))
    figure = new_figure(11 if evaluations else 6.5, 4.6)
    grid = figure.add_gridspec(2, 2 if evaluations else 1, height_ratios=[4, 1])
    losses = figure.add_subplot(grid[0, 0])
    rate = figure.add_subplot(grid[1, 0], sharex=losses)
    axes = [losses, rate]
    plot_losses(losses, training, {*lower_is_better, *(evaluations[-1] if evaluations else ())})
    rate.plot(*_series(training, "lr"), color="0.35", lw=1.4, **_markers(training))
    rate.set(ylabel="learning rate", xlabel="iteration", ylim=(0, None))
    losses.tick_params(labelbottom=False)
    if evaluations:
        axes.append(figure.add_subplot(grid[:, 1]))
        plot_metric(axes[-1], evaluations, lower_is_better, first)
    for axis in axes:
        axis.set_xlim(0, 1.02 * max(record["iteration"] for record in (training[-1], *evaluations[-1:])))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        tidy(axis)
    for label in axes[-1].texts:
        if isinstance(label, Annotation):
            move_to_free_space(label, axes[-1])
    save(figure, out)


def _read_log(path: Path) -> tuple[Records, Records]:
    """Read the training records and the evaluation records of a log; a truncated last line is ignored."""
    try:
        records = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a training log: {error}") from error
    training = [r for r in records if r.get("mode") == "train"]
    if not training:
        raise DataError(f"{path} has no training records; expected a run's log.jsonl")
    return training, [r for r in records if r.get("mode") == "val"]


def _series(records: Records, name: str) -> tuple[list[int], NDArray[np.float64]]:
    """Get the iterations, and the values of the field `name`, with NaN for missing and null (non-finite) values."""
    return [r["iteration"] for r in records], np.array([r.get(name) for r in records], np.float64)


def _markers(records: Records) -> dict[str, Any]:
    """Line style with markers if there are few points, since a line through one point is invisible."""
    return {"marker": "o", "ms": 4} if len(records) <= 10 else {}


def plot_losses(axis: Axes, training: Records, metrics: Collection[str] = ()) -> None:
    """Plot the smoothed training losses over iterations: the sum as a bold line, its parts as thin lines.

    With 50 records or more, the raw values are drawn faintly behind the smoothed lines. If the sum has only one part,
    and always equals this part, the part is not drawn.

    Args:
        axis: axes to draw on.
        training: training records of the log, at least one.
        metrics: names of logged values that are not losses, such as a classifier's error; they are not drawn.
    """
    parts = [name for name in training[-1] if name not in {*_BOOKKEEPING, *metrics, "loss"}]
    if len(parts) == 1 and all(record.get(parts[0]) == record.get("loss") for record in training):
        parts = []
    for number, name in enumerate(["loss", *parts]):
        steps, values = _series(training, name)
        color = OTHERS[(number - 1) % len(OTHERS)] if number else FIRST
        smooth = running_mean(values, len(values) // 25)
        if len(values) >= 50:
            axis.plot(steps, values, color=color, lw=0.7, alpha=0.25)
        label, width = plain_label(name.replace("_", " ")), 1.3 if number else 2.2
        axis.plot(steps, smooth, color=color, lw=width, label=label, **_markers(training))
    total = _series(training, "loss")[1]
    total = total[np.isfinite(total)]
    if total.size:  # limit the y axis, since the losses of the first steps may be far above all others
        axis.set_ylim(0, 1.1 * max(np.percentile(total, 98), 1e-9))
    axis.set_title("training loss", loc="left", fontsize=11)
    axis.legend(frameon=False, fontsize=9)


def running_mean(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Centered moving average of `[N]` values over a window of `2 * reach + 1`, shorter at the ends.

    Non-finite values are left out of the means; at their positions, the result is NaN.
    """
    finite, ones = np.isfinite(values), np.ones(2 * reach + 1)
    sums = np.convolve(np.where(finite, values, 0), ones)[reach : reach + len(values)]
    counts = np.convolve(finite, ones)[reach : reach + len(values)]
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def plot_metric(
    axis: Axes, evaluations: Records, lower_is_better: Collection[str] = (), first: str | None = None
) -> None:
    """Plot the main metrics over iterations; the first metric is bold, with its best value annotated.

    Args:
        axis: axes to draw on; the y axis is 0 to 1 if all values are within this range.
        evaluations: evaluation records of the log, at least one.
        lower_is_better: names of metrics whose best value is the lowest.
        first: name of the metric to draw first, such as the one that selects the best checkpoint.
    """
    drawn = []
    for number, name in reversed([*enumerate(_metric_names(evaluations[-1], first))]):
        steps, values = _series(evaluations, name)
        values[values == -1] = np.nan  # COCO's value for "no ground truth" is not a metric value
        drawn.append(values[np.isfinite(values)])
        color = OTHERS[(number - 1) % len(OTHERS)] if number else FIRST
        label = plain_label(name.replace("_", " "))
        axis.plot(steps, values, color=color, lw=1.3 if number else 2.2, marker="o", ms=4, label=label)
        if number == 0 and np.isfinite(values).any():
            lower = name in lower_is_better
            finite = np.where(np.isfinite(values), values, np.inf if lower else -np.inf)
            best = int(finite.argmin() if lower else finite.argmax())
            axis.annotate(
                f"{values[best]:.3f}",
                (steps[best], values[best]),
                (0, -12 if lower else 12),
                textcoords="offset points",
                ha="center",
                va="center",
                color=color,
                fontweight="bold",
            )
            axis.scatter(
                steps[best], values[best], 55, "white", edgecolors=color, linewidths=2, zorder=5, clip_on=False
            )
    if all(((values >= 0) & (values <= 1)).all() for values in drawn):
        axis.set_ylim(0, 1)
    axis.set_xlabel("iteration")
    axis.set_title("validation", loc="left", fontsize=11)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], frameon=False, fontsize=9, loc="best")


def _metric_names(numbers: dict[str, Any], first: str | None) -> list[str]:
    """The metrics to draw: `first`, if it was computed; then every `…_AP`, the first of them with its AP50 and AP75; if
    there is no AP, the first four metrics."""
    metrics = [name for name in numbers if name not in _BOOKKEEPING]
    aps = [name for name in metrics if name.endswith("_AP")]
    names = [name for ap in aps[:1] for name in (ap, f"{ap}50", f"{ap}75") if name in metrics] + aps[1:]
    return list(dict.fromkeys([*(name for name in metrics if name == first), *(names or metrics[:4])]))
