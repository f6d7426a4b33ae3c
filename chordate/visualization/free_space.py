"""Places the label of a plot where it overlaps neither the curves nor the legend nor the edges of the axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

CLEARANCE = 5  # pixels of free space around a label
STEPS = 60  # number of candidate positions along each axis
# Candidate positions of a label, in pixels: x `[X]` of its left edge and y `[Y]` of its lower edge; every pair
# of x and y is a candidate.
Places = tuple[NDArray[np.float64], NDArray[np.float64]]


def move_to_free_space(label: Annotation, axis: Axes) -> None:
    """Move the text of an annotation to the free position nearest to the annotated point.

    Computes the layout of the figure, so the figure must be complete. If there is no free position, the text is placed
    above the axes at the right.

    Args:
        label: annotation whose text is centered on its position; `label.xy` is the annotated point in data coordinates.
        axis: the axes that contain the label.
    """
    axis.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    size = np.array(label.get_window_extent().size) + 2 * CLEARANCE
    point = axis.transData.transform(label.xy)
    places = _places(axis, size)
    legend = axis.get_legend()
    taken = _overlaps(places, size, Bbox([point - CLEARANCE, point + CLEARANCE]))
    if legend is not None:
        taken |= _overlaps(places, size, legend.get_window_extent())
    for line in axis.lines:
        taken |= _crosses(places, size, axis.transData.transform(np.column_stack(line.get_data())))
    free = np.argwhere(~taken)
    label.set_in_layout(False)  # the label must not change the layout, from which its position is computed
    if not len(free):
        label.set(position=(1, 1.02), horizontalalignment="right", verticalalignment="bottom")
        label.set_anncoords("axes fraction")
        return
    centers = np.column_stack([places[0][free[:, 0]], places[1][free[:, 1]]]) + size / 2
    best = np.hypot(*(centers - point).T).argmin()
    label.set_anncoords("axes fraction")
    label.set_position(tuple(axis.transAxes.inverted().transform(centers[best])))


def _places(axis: Axes, size: NDArray[np.float64]) -> Places:
    """Candidate positions of a label of `size` (width and height in pixels): a grid inside the axes."""
    low, high = axis.bbox.p0, axis.bbox.p1 - size
    x, y = (np.linspace(*ends, STEPS if (high >= low).all() else 0) for ends in zip(low, high))
    return x, y


def _overlaps(places: Places, size: NDArray[np.float64], box: Bbox) -> NDArray[np.bool_]:
    """Whether the label overlaps a box, for each candidate position, `[X, Y]`."""
    (x, y), (width, height) = places, size
    in_x = (x <= box.x1) & (x + width >= box.x0)
    in_y = (y <= box.y1) & (y + height >= box.y0)
    return in_x[:, None] & in_y


def _crosses(places: Places, size: NDArray[np.float64], curve: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a curve crosses the label, for each candidate position, `[X, Y]`.

    The curve, `[N, 2]` with ascending x, is interpolated over NaN. It crosses the label if, between the label's left
    and right edges, it is neither entirely above nor entirely below the label.
    """
    (x, y), (width, height) = places, size
    crosses = np.zeros((len(x), len(y)), bool)
    curve = curve[np.isfinite(curve).all(1)]
    for column, (left, right) in enumerate(zip(x, x + width)):
        if not len(curve) or curve[-1, 0] < left or curve[0, 0] > right:
            continue
        ends = np.clip([left, right], curve[0, 0], curve[-1, 0])
        inside = (curve[:, 0] >= ends[0]) & (curve[:, 0] <= ends[1])
        heights = np.concatenate([np.interp(ends, *curve.T), curve[inside, 1]])
        crosses[column] = (heights.min() <= y + height) & (heights.max() >= y)
    return crosses
