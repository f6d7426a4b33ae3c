"""Draws the results of any task: one function per type of prediction, targets and report (`functools.singledispatch`).

A new task registers its own functions:

    @draw.register
    def draw_depth(prediction: Depth, image, meta, *, score_threshold=0.0, long_side=None): ...
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path
from typing import Any

from chordate.errors import ConfigError
from chordate.structures import DatasetMeta
from chordate.visualization.canvas import Picture, draw_annotations


@singledispatch
def draw(
    prediction: Any,
    image: Picture,
    meta: DatasetMeta,
    *,
    score_threshold: float = 0.0,
    long_side: int | None = None,
) -> Picture:
    """Draw a prediction on its image.

    Args:
        prediction: a prediction in pixels of `image`; its type selects the function.
        image: `[H, W, 3]` uint8 RGB; is not changed.
        meta: class names, skeleton and palette.
        score_threshold: objects with lower scores are not drawn.
        long_side: longer side of the result in pixels; None for the longer side of `image`, but at least 640, so that
            names are legible.

    Returns:
        A new picture `[H', W', 3]` uint8 RGB.

    Raises:
        ConfigError: no function is registered for the prediction's type.
    """
    raise ConfigError(_unregistered("draw", prediction))


@singledispatch
def draw_targets(
    targets: Any, index: int, image: Picture, meta: DatasetMeta, *, long_side: int | None = None
) -> Picture:
    """Draw the ground truth of one image; the counterpart of `draw`.

    Args:
        targets: targets of a batch, in pixels of `image`; their type selects the function. None draws the image alone.
        index: index of the image in the batch.
        image: `[H, W, 3]` uint8 RGB, with the padding of the batch; is not changed.
        meta, long_side: as in `draw`.

    Returns:
        A new picture `[H', W', 3]` uint8 RGB.

    Raises:
        ConfigError: no function is registered for the type of the targets.
    """
    raise ConfigError(_unregistered("draw_targets", targets))


@draw_targets.register
def draw_no_targets(
    targets: None, index: int, image: Picture, meta: DatasetMeta, *, long_side: int | None = None
) -> Picture:
    """Draw only the image."""
    return draw_annotations(image, [], long_side)


@singledispatch
def plot_report(report: Any, folder: str | Path) -> list[Path]:
    """Write the result of a metric's `report()` as plots and JSON.

    Args:
        report: result of `Metric.report`; its type selects the function.
        folder: created if it does not exist.

    Returns:
        The files written.

    Raises:
        ConfigError: the report is None (the metric has no report), or no function is registered for its type.
        OSError: the folder cannot be created, or `report.json` cannot be written.
        DataError: a PNG cannot be written.
    """
    raise ConfigError(_unregistered("plot_report", report))


@plot_report.register
def plot_no_report(report: None, folder: str | Path) -> list[Path]:
    raise ConfigError("--report: this metric has no report; CocoMetric, SemanticMetric and PanopticMetric have one")


def _unregistered(function: str, value: Any) -> str:
    kind = type(value).__name__
    return f"{kind} cannot be drawn; register a function for it with @chordate.visualization.{function}.register"
