"""Draws annotations on images: boxes, labels, masks, keypoints and the bones between them."""

from __future__ import annotations

import colorsys
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from chordate.errors import DataError
from chordate.text import printable

Picture = NDArray[np.uint8]  # [H, W, 3] RGB
Color = tuple[int, int, int]
Pixels = tuple[int, int, int, int]  # left, top, right, bottom of a box; right and bottom are inclusive

LONG_SIDE = 640  # default minimum of the longer side in pixels; smaller images are upscaled to it
PADDING = 3  # pixels around the text of a label
MASK_OPACITY = 0.35
SHADES = (0, 0.4, -0.3, 0.2, -0.45)  # how far each instance's color is mixed with white (> 0) or black (< 0)


@dataclass
class Annotation:
    """One object to draw, in pixels of the image.

    Attributes:
        box: x1, y1, x2, y2.
        name, note: the label is `name` + `note`; if it is too long, only the name is cut.
        color: RGB 0 … 255 of the box, the label, the mask and the keypoints.
        dashed: whether the box is dashed.
        mask: `[H, W]` bool, or None.
        keypoints: x, y of each keypoint, or None if the keypoint is not drawn.
        bones: pairs of keypoint indices; a line joins the two keypoints if both are drawn.
        keypoint_colors: color of each keypoint, and of bones between two keypoints of that color; empty to use `color`.
    """

    box: Sequence[float]
    name: str
    note: str
    color: Color
    dashed: bool = False
    mask: NDArray[np.bool_] | None = None
    keypoints: Sequence[Sequence[float] | None] = ()
    bones: Sequence[tuple[int, int]] = ()
    keypoint_colors: Sequence[Color] = ()


def color_of(number: int, palette: Sequence[Color] | None = None) -> Color:
    """Color `number` of the palette, or else a bright color; successive numbers have distant hues (golden angle)."""
    if palette is not None and number < len(palette):
        return palette[number]
    hue = (0.55 + number * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 1.0)[number % 3], 1.0 if number % 2 else 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def instance_colors(
    boxes: Sequence[Sequence[float]], labels: Sequence[int], palette: Sequence[Color] | None = None
) -> list[Color]:
    """A color per instance: the color of its class, lighter or darker if the class has several instances.

    From left to right, the instances of a class cycle through `SHADES`. So neighbors have different colors, and
    detections that match the ground truth one to one have its colors.
    """
    colors, seen = [(0, 0, 0)] * len(boxes), Counter[int]()
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i][0] + boxes[i][2]):
        shade = SHADES[seen[labels[i]] % len(SHADES)]
        seen[labels[i]] += 1
        end = 255 if shade > 0 else 0
        red, green, blue = (round(part + abs(shade) * (end - part)) for part in color_of(labels[i], palette))
        colors[i] = red, green, blue
    return colors


def is_bright(color: Color) -> bool:
    """Whether black text has more contrast than white text on a color (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]
    return bool(np.dot(linear, (0.2126, 0.7152, 0.0722)) > 0.179)  # black and white text have equal contrast at 0.179


def to_picture(image: Tensor) -> Picture:
    """Convert an image `[C, H, W]`, or the middle frame of a clip `[C, T, H, W]`, with values 0 … 255, to a picture.

    With one or two channels, the first channel is shown in gray; with more than three, the first three are RGB.
    """
    while image.ndim > 3:
        image = image[:, image.shape[1] // 2]
    image = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return image.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy().copy()


def write_image(path: str | Path, image: Picture) -> None:
    """Write an RGB picture `[H, W, 3]` uint8; the file's extension selects the format.

    Raises:
        DataError: the file cannot be written, for example because the folder does not exist or the extension is
            unknown.
    """
    try:
        Image.fromarray(image).save(path, quality=92)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written: {error}") from error


@cache
def make_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, the same on every system; `size` in pixels."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def draw_annotations(image: Picture, annotations: Sequence[Annotation], long_side: int | None = None) -> Picture:
    """Resize an image and draw annotations on it, the first annotation on top.

    Args:
        image: `[H, W, 3]` uint8 RGB; is not changed.
        annotations: in pixels of `image`.
        long_side: longer side of the result in pixels; None for the longer side of `image`, but at least 640.

    Returns:
        A new picture `[H', W', 3]`.
    """
    long_side = long_side or max(LONG_SIDE, *image.shape[:2])
    scale = long_side / max(image.shape[:2])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    resized = resize(image, size)
    line, font = max(2, round(long_side / 320)), make_font(max(12, round(long_side / 52)))
    for annotation in reversed(annotations):
        if annotation.mask is not None:
            _draw_mask(resized, annotation.mask, annotation.color, line)
    canvas = Image.fromarray(resized)
    pen = ImageDraw.Draw(canvas)
    for annotation in reversed(annotations):
        _draw_box(pen, _to_canvas(annotation.box, scale, size), annotation, line)
        _draw_keypoints(pen, annotation, scale, line, radius=max(3, long_side / 128))
    labels: list[tuple[Pixels, str, Color]] = []
    for annotation in annotations:
        text = fit_text(annotation.name, annotation.note, font, size[0] - 2 * PADDING)
        width = math.ceil(font.getlength(text)) + 2 * PADDING
        taken = [tag for tag, *_ in labels]
        tag = place_label(_to_canvas(annotation.box, scale, size), width, round(font.size) + 2 * PADDING, size, taken)
        labels.append((tag, text, annotation.color))
    for tag, text, color in reversed(labels):
        pen.rectangle(tag, fill=color)
        middle = (tag[1] + tag[3] + 1) / 2
        pen.text((tag[0] + PADDING, middle), text, "black" if is_bright(color) else "white", font, anchor="lm")
    return np.array(canvas)


def resize(picture: Picture, size: tuple[int, int]) -> Picture:
    """Resize to `size` (width, height): bicubic interpolation to enlarge, area averaging to shrink."""
    interpolation = cv2.INTER_CUBIC if size[0] > picture.shape[1] else cv2.INTER_AREA
    return cv2.resize(picture, size, interpolation=interpolation).astype(np.uint8, copy=False)


def _to_canvas(box: Sequence[float], scale: float, size: tuple[int, int]) -> Pixels:
    """Scale a box to pixels of the canvas, round it, and clip it to the canvas."""
    (x1, x2), (y1, y2) = (
        (min(max(round(low * scale), 0), last), min(max(round(high * scale), 0), last))
        for low, high, last in ((box[0], box[2], size[0] - 1), (box[1], box[3], size[1] - 1))
    )
    return x1, y1, max(x2, x1), max(y2, y1)


def _draw_mask(picture: Picture, mask: NDArray[np.bool_], color: Color, line: int) -> None:
    """Draw the mask as a tint with an outline, in place."""
    size = picture.shape[1], picture.shape[0]
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    inside = resized > 0
    picture[inside] = ((1 - MASK_OPACITY) * picture[inside] + MASK_OPACITY * np.array(color)).astype(np.uint8)
    outlines, _ = cv2.findContours(resized, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, color, line // 2)


def _draw_box(pen: ImageDraw.ImageDraw, box: Pixels, annotation: Annotation, line: int) -> None:
    """Draw a box with a thin darker edge, which makes it visible on any background."""
    x1, y1, x2, y2 = box
    red, green, blue = (part // 3 for part in annotation.color)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(red, green, blue))
    if not annotation.dashed:
        pen.rectangle(box, outline=annotation.color, width=line)
        return
    dash = 5 * line
    for x in range(x1, x2, 2 * dash):
        for y in (y1, y2 - line + 1):
            pen.rectangle((x, y, min(x + dash, x2), y + line - 1), fill=annotation.color)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, x2 - line + 1):
            pen.rectangle((x, y, x + line - 1, min(y + dash, y2)), fill=annotation.color)


def _draw_keypoints(pen: ImageDraw.ImageDraw, annotation: Annotation, scale: float, line: int, radius: float) -> None:
    """Draw keypoints of this radius, and bones of the width `line`, with dark edges."""
    colors = annotation.keypoint_colors or [annotation.color] * len(annotation.keypoints)
    points = [None if point is None else (point[0] * scale, point[1] * scale) for point in annotation.keypoints]
    for first, second in annotation.bones:
        ends = points[first], points[second]
        if ends[0] is not None and ends[1] is not None:
            pen.line((*ends[0], *ends[1]), "black", 2 * line)
            color = colors[first] if colors[first] == colors[second] else annotation.color
            pen.line((*ends[0], *ends[1]), color, line)
    for point, color in zip(points, colors):
        if point is not None:
            pen.circle(point, radius, fill=color, outline="black")


def fit_text(name: str, note: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Join `name` and `note` on one line; the name is truncated so that both fit in `width` pixels."""
    name = printable(name, 200)
    text, kept = name + note, len(name)
    while kept and font.getlength(text) > width:
        kept -= 1
        text = f"{name[:kept]}…{note}"
    return text


def place_label(box: Pixels, width: int, height: int, size: tuple[int, int], taken: Sequence[Pixels]) -> Pixels:
    """Place a label at a corner of its box, inside the picture, where it overlaps earlier labels least.

    Args:
        box: x1, y1, x2, y2 in pixels of the canvas; x2 and y2 are the last pixels inside (in all boxes here).
        width, height: size of the label.
        size: width and height of the canvas.
        taken: boxes of the earlier labels.

    Returns:
        The label's box.
    """
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
