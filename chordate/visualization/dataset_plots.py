"""Plots of a dataset for `chordate check`: objects per class, image sizes, and distributions of values."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from chordate.structures import Values
from chordate.structures.statistics import format_number
from chordate.visualization.style import FIRST, OTHERS, new_figure, plain_label, tidy

ROWS, COLUMNS = 40, 3  # maximum number of classes per column, and of columns; less frequent classes are left out
BINS = 40


def plot_class_counts(names: Sequence[str], counts: NDArray[np.int64]) -> Figure:
    """Bar chart of the objects per class, most frequent first: at most 120 classes, in columns of at most 40.

    Of more than 40 classes, those without objects are left out.
    """
    max_classes = ROWS * COLUMNS if len(counts) <= ROWS else min(ROWS * COLUMNS, max(np.count_nonzero(counts), 1))
    order = np.argsort(-counts, kind="stable")[:max_classes]
    columns = -(-len(order) // ROWS)
    rows = -(-len(order) // columns)
    figure = new_figure(6 if columns == 1 else 4.5 * columns, 0.8 + 0.21 * max(rows, 11))
    for number, axis in enumerate(figure.subplots(1, columns, squeeze=False, sharex=True)[0]):
        part = order[number * rows : (number + 1) * rows]
        axis.barh(range(len(part)), counts[part], color=FIRST, height=0.72)
        for place, count in enumerate(counts[part].tolist()):
            axis.text(count, place, f" {count:,}", va="center", fontsize=8, color=FIRST)
        axis.set_yticks(range(len(part)), [plain_label(names[label]) for label in part], fontsize=8)
        axis.set(xlim=(0, 1.25 * max(counts.max(), 1)), ylim=(max(rows, 3) - 0.4, -0.6))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        tidy(axis, "x")
    return figure


def plot_sizes(sizes: NDArray[np.int64]) -> Figure:
    """Histograms of the width and the height of the images, from their `sizes` `[images, 2]` (height, width)."""
    figure = new_figure(6, 3.2)
    axis, edges = figure.subplots(), np.linspace(0, sizes.max() + 1, BINS + 1).tolist()
    for column, name, color, line in ((1, "width", FIRST, "-"), (0, "height", OTHERS[0], "--")):
        axis.hist(sizes[:, column], bins=edges, histtype="step", color=color, lw=1.6, ls=line, label=name)
    axis.set(xlabel="pixels", ylabel="images")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, fontsize=8)
    tidy(axis)
    return figure


def plot_values(statistic: Values) -> Figure:
    """Histogram of a distribution, with its median; integers within a small range have one bar each."""
    figure = new_figure(6, 3.2)
    axis, values = figure.subplots(), statistic.values.astype(float)
    low, high = values.min(), values.max()
    if statistic.logarithmic:
        low, high = (low / 1.2, high * 1.2)
        edges = np.geomspace(low, high, BINS + 1)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    else:
        step = max(1, np.ceil((high + 1) / BINS))
        edges = np.arange(-0.5, high + step + 0.5, step)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.hist(values, bins=edges.tolist(), color=FIRST, rwidth=1 if statistic.logarithmic else 0.85)
    axis.axvline(float(np.percentile(values, 50, method="nearest")), color=OTHERS[0], lw=1.4, ls="--", label="median")
    axis.set(xlabel=statistic.unit, xlim=(edges[0], edges[-1]))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.legend(frameon=False, fontsize=8)
    tidy(axis, "y")
    return figure
