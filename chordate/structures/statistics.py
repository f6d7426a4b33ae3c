"""Statistics of ground truth for `chordate check`: counts by name, and distributions of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

PERCENTILES = (0, 5, 50, 95, 100)
VISIBILITY = ("visible", "hidden", "not labeled")  # names of COCO's visibilities 2, 1 and 0


@dataclass(frozen=True)
class Counts:
    """Counts in named rows and columns, such as the visible and the hidden keypoints of each joint.

    Attributes:
        columns: name of each column, such as "visible".
        rows: for each name, one count per column.
    """

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """The sum of the counts; the rows with the largest counts come first."""
        sums: dict[str, list[int]] = {}
        for part in parts:
            for name, counts in part.rows.items():
                total = sums.setdefault(name, [0] * len(counts))
                total[:] = [a + b for a, b in zip(total, counts, strict=True)]
        ordered = sorted(sums.items(), key=lambda row: [-count for count in row[1]])
        return cls(parts[0].columns, {name: tuple(counts) for name, counts in ordered})

    def summary(self) -> str:
        """One line: `nose: 3 visible, 1 hidden; …`, or the percentages if there is only one column."""
        total = max(sum(sum(counts) for counts in self.rows.values()), 1)
        if len(self.columns) == 1:
            return ", ".join(f"{name} {format_percent(counts[0] / total)}" for name, counts in self.rows.items())
        return "; ".join(
            f"{name}: " + ", ".join(f"{count:,} {column}" for column, count in zip(self.columns, counts) if count)
            for name, counts in self.rows.items()
        )


@dataclass(frozen=True)
class Values:
    """A distribution of values, such as the sizes of all boxes, drawn as a histogram.

    Attributes:
        values: `[V]` float32.
        unit: unit of the values, such as "px", or an empty string.
        logarithmic: whether the axis of the histogram is logarithmic; if so, all values must be positive.
    """

    values: NDArray[np.float32]
    unit: str = ""
    logarithmic: bool = False

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """All values of the parts."""
        return cls(np.concatenate([part.values for part in parts]), parts[0].unit, parts[0].logarithmic)

    def percentiles(self) -> list[str]:
        """The minimum, the 5th, 50th and 95th percentile and the maximum, as text; empty without values."""
        if not len(self.values):
            return []
        return [format_number(value) for value in np.percentile(self.values, PERCENTILES, method="nearest")]

    def summary(self) -> str:
        """One line: `median 34 px, 90 % in 10 … 120 px`."""
        if not len(self.values):
            return "no values"
        _, low, median, high, _ = self.percentiles()
        unit = f" {self.unit}" if self.unit else ""
        return f"median {median}{unit}, 90 % in {low} … {high}{unit}"


Statistic = Counts | Values


def merge_statistics(parts: Sequence[Statistic]) -> Statistic:
    """Merge one statistic of several samples."""
    first: Any = parts[0]
    merged: Statistic = type(first).merge(parts)
    return merged


def format_number(value: float) -> str:
    """Format a number with three significant digits, or as an integer from 100 on: `0.0123`, `1.23`, `1,234`."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_percent(fraction: float) -> str:
    """Format a fraction as a percentage, with three significant digits, or two below 1 %: `12.3 %`, `0.012 %`."""
    percent = 100 * fraction
    return f"{percent:.3g} %" if percent >= 1 else f"{percent:.2g} %"


def box_statistics(boxes: Tensor) -> dict[str, Statistic]:
    """The sizes (square roots of the areas, in pixels) and the aspect ratios of boxes `[M, 4]` x1, y1, x2, y2."""
    sides = (boxes[:, 2:] - boxes[:, :2]).double().numpy()
    width, height = sides[(sides > 0).all(1)].T
    return {
        "box size": Values(np.sqrt(width * height).astype(np.float32), "px", logarithmic=True),
        "box aspect ratio (width / height)": Values((width / height).astype(np.float32), logarithmic=True),
    }


def keypoint_statistics(keypoints: Tensor, names: Sequence[str]) -> dict[str, Statistic]:
    """The labeled keypoints of objects, per joint and per object.

    Args:
        keypoints: `[M, K, 3]`, x, y and COCO's visibility.
        names: names of the `K` keypoints.
    """
    flags = keypoints[:, :, 2].numpy()
    counts = np.stack([(flags == flag).sum(0) for flag in (2, 1, 0)], axis=1)
    rows = {name: tuple(row) for name, row in zip(names, counts.tolist(), strict=True)}
    labeled = (flags > 0).sum(1)
    return {
        "keypoints": Counts(VISIBILITY, rows),
        "labeled keypoints per object": Values(labeled.astype(np.float32)),
    }


def count_value(value: int) -> Values:
    """A distribution with one value: a count, such as the number of objects in an image."""
    return Values(np.array([value], np.float32))
