"""Places the label of a plot where it overlaps neither the curves nor the legend nor the edges of the axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

CLEARANCE = 5  # pixels of free space around a label
STEPS = 60  # number of candidate positions along each axis


def move_to_free_space(label: Annotation, axis: Axes) -> None:
    """Move the text of an annotation to the free position nearest to its point.

    Computes the layout of the figure, so the figure must be complete. If there is no free position, the text is placed
    above the axes at the right.

    Args:
        label: annotation whose text is centered on its position; `label.xy` is its point in data coordinates.
        axis: the axes that contain the label.
    """
    axis.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    size = np.array(label.get_window_extent().size) + 2 * CLEARANCE
    point = axis.transData.transform(label.xy)
    legend = axis.get_legend()
    boxes = [] if legend is None else [legend.get_window_extent()]
    curves = [axis.transData.transform(np.column_stack(line.get_data())) for line in axis.lines]
    free = [box for box in _places(axis, size) if not any(box.overlaps(other) for other in boxes)]
    free = [box for box in free if not any(_crosses(curve, box) for curve in curves)]
    free = [box for box in free if not box.padded(CLEARANCE).contains(*point)]
    label.set_in_layout(False)  # the label lies within the axes and must not change their size
    if not free:
        label.set(position=(1, 1.02), horizontalalignment="right", verticalalignment="bottom")
        label.set_anncoords("axes fraction")
        return
    centers = np.array([(box.p0 + box.p1) / 2 for box in free])
    best = np.hypot(*(centers - point).T).argmin()
    label.set_anncoords("axes fraction")
    label.set_position(tuple(axis.transAxes.inverted().transform(centers[best])))


def _places(axis: Axes, size: NDArray[np.float64]) -> list[Bbox]:
    """Candidate positions of a label: boxes of `size` (width and height in pixels) on a grid inside the axes."""
    low, high = axis.bbox.p0, axis.bbox.p1 - size
    if (high < low).any():
        return []
    grid = [np.linspace(*ends, STEPS) for ends in zip(low, high)]
    return [Bbox.from_bounds(x, y, *size) for x in grid[0] for y in grid[1]]


def _crosses(curve: NDArray[np.float64], box: Bbox) -> bool:
    """Whether a curve `[N, 2]` with ascending x, interpolated over NaN, crosses a box: between the left and right edge
    of the box, the curve is neither entirely above nor entirely below the box."""
    curve = curve[np.isfinite(curve).all(1)]
    if not len(curve) or curve[-1, 0] < box.x0 or curve[0, 0] > box.x1:
        return False
    ends = np.clip([box.x0, box.x1], curve[0, 0], curve[-1, 0])
    inside = (curve[:, 0] >= ends[0]) & (curve[:, 0] <= ends[1])
    heights = np.concatenate([np.interp(ends, *curve.T), curve[inside, 1]])
    return bool(heights.min() <= box.y1 and heights.max() >= box.y0)
