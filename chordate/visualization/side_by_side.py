"""Draws a sheet of images, each twice: with its ground truth, and with the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from chordate.evaluation.ranked_images import RankedImage
from chordate.structures import DatasetMeta, Prediction
from chordate.visualization.canvas import Picture, fit_text, make_font, resize, to_picture
from chordate.visualization.task_drawing import draw, draw_targets

MARGIN = 14  # pixels around the images of a sheet
CAPTION = 15  # size of a sheet's captions in pixels


def side_by_side(
    images: Sequence[Picture],
    names: Sequence[str],
    predictions: Sequence[Prediction],
    targets: Sequence[Any],
    meta: DatasetMeta,
    score_threshold: float | None = None,
    columns: int = 2,
    panel: int = 360,
) -> Picture:
    """Draw each image twice on a sheet: with its ground truth at the left, with the prediction at the right.

    Args:
        images: `[H, W, 3]` uint8 RGB each.
        names: a caption for each image, such as its file's name.
        predictions: one per image, in pixels of the image.
        targets: for each image, the Targets of a batch of size 1, in pixels of the image, or None to draw no targets.
        meta: class names, skeleton and palette.
        score_threshold: objects with lower scores are not drawn; None for the predictions' `display_threshold`.
        columns: number of images per row.
        panel: longer side of each picture in pixels.

    Returns:
        The sheet, `[H', W', 3]` uint8 RGB.

    Raises:
        ConfigError: a type of prediction or targets has no function registered in `draw` or `draw_targets`.
    """
    rows: list[list[tuple[Picture, str]]] = []
    for number, (image, name, prediction, truth) in enumerate(zip(images, names, predictions, targets, strict=True)):
        if number % columns == 0:
            rows.append([])
        left = draw_targets(truth, 0, image, meta, long_side=panel)
        threshold = prediction.display_threshold if score_threshold is None else score_threshold
        right = draw(prediction, image, meta, score_threshold=threshold, long_side=panel)
        rows[-1] += [
            (_fit(left, panel), _caption(name, "" if truth is None else truth.describe(0))),
            (_fit(right, panel), _caption("prediction", _describe(prediction, threshold))),
        ]
    return _compose(rows, panel)


def ranked_sheet(images: Sequence[RankedImage], metric: str, meta: DatasetMeta) -> Picture:
    """Draw the images of a report with their scores; `metric` is the name of the score."""
    return side_by_side(
        [to_picture(image.original.images[0]) for image in images],
        [f"{Path(image.original.infos[0].path).name}, {metric} {image.score:.3f}" for image in images],
        [image.prediction for image in images],
        [image.original.targets for image in images],
        meta,
    )


def _caption(name: str, description: str) -> str:
    return f"{name}: {description}" if description else name


def _describe(prediction: Prediction, score_threshold: float) -> str:
    """Describe the objects that are drawn, and the score threshold if it applies to the prediction."""
    drawn = prediction.above(score_threshold)
    applies = score_threshold and drawn is not prediction
    return f"{drawn.describe()}, score ≥ {score_threshold:g}" if applies else drawn.describe()


def _fit(picture: Picture, panel: int) -> Picture:
    """Resize a picture to a longer side of `panel` pixels: the drawing function of a task may ignore `long_side`."""
    scale = panel / max(picture.shape[:2])
    size = max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1)
    return resize(picture, size)


def _compose(rows: Sequence[Sequence[tuple[Picture, str]]], panel: int) -> Picture:
    """Arrange captioned images in rows of pairs; each row is as tall as its tallest image."""
    font, strip, gap = make_font(CAPTION), 2 * CAPTION, MARGIN // 3
    lefts = [MARGIN + i * (panel + gap) + i // 2 * (2 * MARGIN - gap) for i in range(max(map(len, rows), default=0))]
    heights = [strip + max(picture.shape[0] for picture, _ in row) + MARGIN for row in rows]
    sheet = Image.new("RGB", (max(lefts, default=0) + panel + MARGIN, sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for row, top in zip(rows, np.cumsum([MARGIN // 2, *heights]).tolist()):
        for (picture, caption), left in zip(row, lefts):
            text = fit_text(caption, "", font, panel)
            pen.text((left, top + strip // 2), text, "black", font, anchor="lm")
            sheet.paste(Image.fromarray(picture), (left, top + strip))
    return np.array(sheet)
