"""Draws semantic segmentation: a tint per class over the image, and a legend below it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from chordate.structures import DatasetMeta
from chordate.structures.semantic import IGNORED, SemanticMap, SemanticTargets
from chordate.visualization.canvas import LONG_SIDE, PADDING, Picture, color_of, fit_text, is_bright, make_font, resize
from chordate.visualization.task_drawing import draw, draw_targets

OPACITY = 0.55


@draw.register
def draw_semantic_map(
    prediction: SemanticMap,
    image: Picture,
    meta: DatasetMeta,
    *,
    score_threshold: float = 0.0,
    long_side: int | None = None,
) -> Picture:
    """Draw the class of each pixel."""
    return draw_labels(image, prediction.labels.cpu().numpy(), meta, long_side)


@draw_targets.register
def draw_semantic_targets(
    targets: SemanticTargets, index: int, image: Picture, meta: DatasetMeta, *, long_side: int | None = None
) -> Picture:
    """Draw the class of each labeled pixel."""
    return draw_labels(image, targets.labels[index].cpu().numpy(), meta, long_side)


def draw_labels(image: Picture, labels: NDArray[np.int16], meta: DatasetMeta, long_side: int | None = None) -> Picture:
    """Tint an image by class, outline each region in its color, and draw a legend of the classes, largest area first.

    Args:
        image: `[H, W, 3]` uint8 RGB; is not changed.
        labels: `[H, W]`; pixels with the label `IGNORED` get no tint.
        meta: class names and palette.
        long_side: longer side of the drawn image in pixels (without the legend); None for that of `image`, but at least
            640.

    Returns:
        A new picture `[H', W', 3]`: the image, and the legend below it.
    """
    long_side = long_side or max(LONG_SIDE, *image.shape[:2])
    scale = long_side / max(image.shape[:2])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    picture = resize(image, size)
    large = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int16)
    present, counts = np.unique(large[large != IGNORED], return_counts=True)
    order = present[np.argsort(-counts, kind="stable")].tolist()
    edges = _edges(large)
    for label in order:
        color = np.array(color_of(label, meta.palette))
        region = large == label
        picture[region] = ((1 - OPACITY) * picture[region] + OPACITY * color).astype(np.uint8)
        picture[region & edges] = color  # not white, which would hide regions of a few pixels
    return np.concatenate([picture, _legend(order, meta, size[0], long_side)])


def _edges(labels: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Mask `[H, W]` of the pixels whose label differs from the label of at least one of their 4 neighbors."""
    edges = np.zeros(labels.shape, bool)
    across, down = labels[:, :-1] != labels[:, 1:], labels[:-1] != labels[1:]
    edges[:, :-1] |= across
    edges[:, 1:] |= across
    edges[:-1] |= down
    edges[1:] |= down
    return edges


def _legend(labels: list[int], meta: DatasetMeta, width: int, long_side: int) -> Picture:
    """Draw the legend: each class name on its color, wrapped into lines of `width` pixels."""
    font = make_font(max(12, round(long_side / 52)))
    line = round(font.size) + 2 * PADDING
    tags: list[tuple[int, int, int, str, int]] = []
    x = y = 0
    for label in labels:
        text = fit_text(meta.classes[label], "", font, width - 2 * PADDING)
        length = round(font.getlength(text)) + 2 * PADDING
        if x and x + length > width:
            x, y = 0, y + line
        tags.append((x, y, length, text, label))
        x += length
    canvas = Image.new("RGB", (width, y + line if labels else 0), "white")
    pen = ImageDraw.Draw(canvas)
    for left, top, length, text, label in tags:
        color = color_of(label, meta.palette)
        pen.rectangle((left, top, left + length - 1, top + line - 1), fill=color)
        pen.text((left + PADDING, top + line / 2), text, "black" if is_bright(color) else "white", font, anchor="lm")
    return np.array(canvas, np.uint8).reshape(-1, width, 3)
