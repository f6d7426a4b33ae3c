"""Style shared by all plots: colors, figure size, grid, writing to a file."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from chordate.errors import DataError
from chordate.text import printable

FIRST, OTHERS = "#1f4e9c", ["#e08214", "#3a9d5d", "#c0392b", "#8e63b5", "#7f7f7f", "#17a2b8"]


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure of `width` x `height` inches."""
    return Figure(figsize=(width, height), dpi=130, layout=ConstrainedLayoutEngine(wspace=0.04))


def plain_label(name: str) -> str:
    """Format a name as a plot label: shortened, on one line, with "$" escaped (matplotlib's math syntax)."""
    return printable(name, 40).replace("$", r"\$")


def tidy(axis: Axes, lines: str = "both") -> None:
    """Draw a faint grid behind the data (`lines`: "x", "y" or "both"), and hide the frame at the top and right."""
    axis.grid(axis=lines, color="0.92", lw=0.8)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, out: str | Path) -> None:
    """Write a figure; the file's extension selects the format.

    Raises:
        DataError: the file cannot be written, or its extension is unknown.
    """
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:
        raise DataError(f"{out}: cannot be written: {error}") from error
