"""Objects painted on a picture: boxes, labels that stay readable, masks and points."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]  # [H, W, 3] RGB
Colour = tuple[int, int, int]
Pixels = tuple[int, int, int, int]  # left, top, right, bottom of a box; right and bottom belong to it

PADDING = 3  # pixels around the text of a label
TINT = 0.35  # how much of its colour a mask has


@dataclass
class Mark:
    """One object to paint, in pixels of the image.

    Attributes:
        box: x1, y1, x2, y2.
        name, note: the label; a name too long is cut, the note behind it is not.
        colour: of the box and the label.
        dashed: how the box is drawn.
        mask: `[H, W]` bool.
        points: x, y each, or None where one is not shown.
        bones: pairs of points that a line joins, where both are shown.
    """

    box: Sequence[float]
    name: str
    note: str
    colour: Colour
    dashed: bool = False
    mask: NDArray[np.bool_] | None = None
    points: Sequence[Sequence[float] | None] = ()
    bones: Sequence[tuple[int, int]] = ()


def colour_of(label: int) -> Colour:
    """A bright colour for a label; neighbours lie far apart on the colour circle (golden angle)."""
    hue = (0.55 + label * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 1.0)[label % 3], 1.0 if label % 2 else 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def make_font(size: int) -> ImageFont.FreeTypeFont:
    """The face that comes with matplotlib, so that it is the same everywhere; `size` in pixels."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def paint(image: Picture, marks: Sequence[Mark], long_side: int) -> Picture:
    """The marks on the image brought to `long_side` pixels; the first mark is on top."""
    scale = long_side / max(image.shape[:2])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    ground = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    line, font = max(2, round(long_side / 320)), make_font(max(12, round(long_side / 52)))
    for mark in reversed(marks):
        if mark.mask is not None:
            mask = cv2.resize(mark.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            inside = mask > 0
            ground[inside] = ((1 - TINT) * ground[inside] + TINT * np.array(mark.colour)).astype(np.uint8)
            outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(ground, outlines, -1, mark.colour, line // 2)
    canvas = Image.fromarray(ground)
    pen = ImageDraw.Draw(canvas)
    for mark in reversed(marks):
        _draw_box(pen, _on_canvas(mark.box, scale, size), mark, line)
        _draw_points(pen, mark, scale, line)
    taken: list[Pixels] = []
    for mark in marks:
        text = fit_text(mark.name, mark.note, font, size[0] - 2 * PADDING)
        width = math.ceil(font.getlength(text)) + 2 * PADDING
        tag = _place(_on_canvas(mark.box, scale, size), width, round(font.size) + 2 * PADDING, size, taken)
        taken.append(tag)
        pen.rectangle(tag, fill=mark.colour)
        bright = np.dot(mark.colour, (0.299, 0.587, 0.114)) > 140  # luma, ITU-R BT.601
        middle = (tag[1] + tag[3] + 1) / 2
        pen.text((tag[0] + PADDING, middle), text, "black" if bright else "white", font, anchor="lm")
    return np.array(canvas)


def _on_canvas(box: Sequence[float], scale: float, size: tuple[int, int]) -> Pixels:
    """A box in whole pixels, cut at the picture's border."""
    (x1, x2), (y1, y2) = (
        (min(max(round(low * scale), 0), last), min(max(round(high * scale), 0), last))
        for low, high, last in ((box[0], box[2], size[0] - 1), (box[1], box[3], size[1] - 1))
    )
    return x1, y1, max(x2, x1), max(y2, y1)


def _draw_box(pen: ImageDraw.ImageDraw, box: Pixels, mark: Mark, line: int) -> None:
    """A box, with a thin edge of a darker shade that keeps it visible on any ground."""
    x1, y1, x2, y2 = box
    red, green, blue = (part // 3 for part in mark.colour)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(red, green, blue))
    if not mark.dashed:
        pen.rectangle(box, outline=mark.colour, width=line)
        return
    dash = 5 * line
    for x in range(x1, x2, 2 * dash):
        for y in (y1, y2 - line + 1):
            pen.rectangle((x, y, min(x + dash, x2), y + line - 1), fill=mark.colour)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, x2 - line + 1):
            pen.rectangle((x, y, x + line - 1, min(y + dash, y2)), fill=mark.colour)


def _draw_points(pen: ImageDraw.ImageDraw, mark: Mark, scale: float, line: int) -> None:
    """Points with a dark edge, and their bones, which have one too."""
    points = [None if point is None else (point[0] * scale, point[1] * scale) for point in mark.points]
    for first, second in mark.bones:
        ends = points[first], points[second]
        if ends[0] is not None and ends[1] is not None:
            pen.line((*ends[0], *ends[1]), "black", 2 * line)
            pen.line((*ends[0], *ends[1]), mark.colour, line)
    for place in points:
        if place is not None:
            pen.circle(place, 1.5 * line, fill=mark.colour, outline="black")


def fit_text(name: str, note: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`name` + `note`, the name cut so that both fit in `width` pixels."""
    text, kept = name + note, len(name)
    while kept and font.getlength(text) > width:
        kept -= 1
        text = f"{name[:kept]}…{note}"
    return text


def _place(box: Pixels, width: int, height: int, size: tuple[int, int], taken: Sequence[Pixels]) -> Pixels:
    """Where a label goes: at its box, within the picture, covering as little as may be of the labels before it."""
    x1, y1, x2, y2 = box
    left, right = x1, x2 - width + 1
    above, below = y1 - height, y2 + 1
    corners = [(left, above), (right, above), (left, below), (right, below), (left, y1), (left, y2 - height + 1)]
    tags = []
    for x, y in corners:
        x, y = max(min(x, size[0] - width), 0), max(min(y, size[1] - height), 0)
        tags.append((x, y, x + width - 1, y + height - 1))
    return min(tags, key=lambda tag: sum(_overlap(tag, other) for other in taken))


def _overlap(a: Pixels, b: Pixels) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1) * max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
