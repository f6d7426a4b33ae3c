"""Plots that the reports of several tasks share: a bar chart of the classes, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chordate.visualization.style import FIRST, OTHERS, new_figure, tidy


class ClassBar(NamedTuple):
    """Two scores of a class, 0 … 1. `behind` is the larger score; the bar of `front` is drawn over its bar."""

    label: str
    front: float
    behind: float


def class_bars(bars: Sequence[ClassBar], title: str, names: tuple[str, str], mean: float, mean_name: str) -> Figure:
    """Bar chart of the classes, highest front score first; the number of columns makes the figure about square.

    Args:
        bars: one bar per class.
        title: title of the figure.
        names: names of the front score and of the score behind it.
        mean: mean of the front score, drawn as a dashed line.
        mean_name: name of the dashed line in the legend.
    """
    ordered = sorted(bars, key=lambda bar: bar.front)
    height, width = 0.21, 6.5  # height of a bar and width of a column, in inches
    columns = max(round((height * len(ordered) / width) ** 0.5), 1)
    rows = max(-(-len(ordered) // columns), 1)
    figure = new_figure(width * columns, 1.3 + height * max(rows, 3))
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for number, axis in enumerate(axes):
        end = len(ordered) - number * rows
        _plot_bars(axis, ordered[max(end - rows, 0) : end], rows, names)
        axis.axvline(mean, color=OTHERS[0], lw=1.2, ls="--", label=mean_name)
    axes[0].set_title(title, loc="left", fontsize=11)
    figure.legend(*axes[-1].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=3, loc="outside lower right")
    return figure


def _plot_bars(axis: Axes, bars: Sequence[ClassBar], rows: int, names: tuple[str, str]) -> None:
    """Plot one column of `class_bars`: at most `rows` classes, the last class at the top."""
    first = rows - len(bars)  # the bars of a short last column are at the top
    places = range(first, rows)
    axis.barh(places, [bar.behind for bar in bars], color="#c9d6ea", height=0.72, label=names[1])
    axis.barh(places, [bar.front for bar in bars], color=FIRST, height=0.72, label=names[0])
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for place, bar in zip(places, bars):
        text_x = max(bar.front, bar.behind) + 0.01
        axis.text(text_x, place, f"{bar.front:.3f}", va="center", fontsize=8, color=FIRST, bbox=ground)
    axis.set_yticks(places, [bar.label for bar in bars], fontsize=8)
    axis.set(xlim=(0, 1.1), ylim=(-0.6, rows - 0.4), xticks=np.linspace(0, 1, 6))
    axis.tick_params(left=False)
    tidy(axis, "x")


def confusion_matrix(
    matrix: NDArray[Any], names: Sequence[str], title: str, cell: Callable[[float, float], str]
) -> Figure:
    """Confusion matrix, colored by row fraction. With at most 20 classes, nonzero cells also have a text.

    Args:
        matrix: `[K, K]` counts, a row per true class and a column per predicted class.
        names: names of the classes, as plot labels.
        title: title of the figure.
        cell: function that returns the text of a nonzero cell from its count and its fraction of the row.
    """
    count = len(names)
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = 0.55 if count <= 20 else 0.17  # side of a cell in inches
    side = max(size * count, 2.5)
    figure = new_figure(side + 2.6, side + 1.6)
    axis = figure.subplots()
    image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    font = 9 if count <= 20 else 7
    axis.set_xticks(range(count), names, rotation=90, fontsize=font)
    axis.set_yticks(range(count), names, fontsize=font)
    if count <= 20:
        for row, column in np.argwhere(matrix > 0):
            dark = fractions[row, column] > 0.5
            text = cell(float(matrix[row, column]), float(fractions[row, column]))
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="w" if dark else "0.2")
    axis.set(xlabel="predicted", ylabel="ground truth")
    axis.set_title(title, loc="left", fontsize=11)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, ax=axis, label="fraction of the row", fraction=0.25 / side, pad=0.2 / side, anchor=(0, 1)
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure
