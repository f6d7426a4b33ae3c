"""Plots of a dataset for `chordate check`: objects per class, and image sizes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chordate.visualization.style import FIRST, OTHERS, new_figure, plain_label, tidy

ROWS = 40  # classes per column


def plot_class_counts(names: Sequence[str], counts: NDArray[np.int64]) -> Figure:
    """Bar chart of the objects per class, most frequent first, in columns of at most 40 classes."""
    order = np.argsort(-counts, kind="stable")
    columns = -(-len(order) // ROWS)
    rows = -(-len(order) // columns)
    figure = new_figure(4.5 * columns, 0.8 + 0.21 * max(rows, 3))
    for number, axis in enumerate(figure.subplots(1, columns, squeeze=False, sharex=True)[0]):
        part = order[number * rows : (number + 1) * rows]
        axis.barh(range(len(part)), counts[part], color=FIRST, height=0.72)
        for place, count in enumerate(counts[part].tolist()):
            axis.text(count, place, f" {count:,}", va="center", fontsize=8, color=FIRST)
        axis.set_yticks(range(len(part)), [plain_label(names[label]) for label in part], fontsize=8)
        axis.set(xlim=(0, 1.2 * max(counts.max(), 1)), ylim=(rows - 0.4, -0.6))
        tidy(axis, "x")
    return figure


def plot_sizes(sizes: NDArray[np.int64]) -> Figure:
    """Histograms of the width and the height of the images, from their `sizes` `[images, 2]` (height, width)."""
    figure = new_figure(6, 3.2)
    axis, edges = figure.subplots(), np.linspace(0, sizes.max() + 1, 41).tolist()
    for column, name, color, line in ((1, "width", FIRST, "-"), (0, "height", OTHERS[0], "--")):
        axis.hist(sizes[:, column], bins=edges, histtype="step", color=color, lw=1.6, ls=line, label=name)
    axis.set(xlabel="pixels", ylabel="images")
    axis.legend(frameon=False, fontsize=8)
    tidy(axis)
    return figure
