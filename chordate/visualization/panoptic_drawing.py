"""Draws panoptic segments with outlines and labels: stuff in the color of its class, each thing in its own shade."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from chordate.structures import IGNORED, DatasetMeta, PanopticMap, PanopticTargets
from chordate.structures.panoptic import segment_boxes
from chordate.visualization.canvas import (
    LONG_SIDE,
    PADDING,
    Color,
    Picture,
    color_of,
    fit_text,
    instance_colors,
    is_bright,
    make_font,
    resize,
)
from chordate.visualization.task_drawing import draw, draw_targets

OPACITY = 0.5


@draw.register
def draw_panoptic_map(
    prediction: PanopticMap,
    image: Picture,
    meta: DatasetMeta,
    *,
    score_threshold: float = 0.0,
    long_side: int | None = None,
) -> Picture:
    """Draw the segments. Things are labeled with class and score, stuff with the class."""
    kept = prediction.above(score_threshold).to("cpu", non_blocking=False)
    notes = [f" {s:.2f}" if t else "" for s, t in zip(kept.scores.tolist(), kept.is_thing.tolist())]
    return draw_segments(image, kept.ids, kept.labels.tolist(), notes, kept.is_thing.tolist(), meta, long_side)


@draw_targets.register
def draw_panoptic_targets(
    targets: PanopticTargets, index: int, image: Picture, meta: DatasetMeta, *, long_side: int | None = None
) -> Picture:
    """Draw the things and the stuff. Crowds have an outline and a label, but no tint."""
    labels, slots, instances = targets.labels[index].long(), targets.slots[index].long(), targets.instances
    valid = instances.valid[index]
    things = instances.labels[index][valid].tolist()
    stuff = targets.stuff(index)
    rest = torch.searchsorted(stuff, labels) + len(things) + 1 if len(stuff) else labels
    ids = torch.where(slots != IGNORED, slots + 1, torch.where(labels != IGNORED, rest, 0))
    notes = [" (crowd)" if crowd else "" for crowd in instances.crowd[index][valid].tolist()] + [""] * len(stuff)
    is_thing = [True] * len(things) + [False] * len(stuff)
    return draw_segments(image, ids, things + stuff.tolist(), notes, is_thing, meta, long_side)


def draw_segments(
    image: Picture,
    ids: Tensor,
    labels: list[int],
    notes: list[str],
    is_thing: list[bool],
    meta: DatasetMeta,
    long_side: int | None = None,
) -> Picture:
    """Tint the segments of an image, outline them, and label them.

    Args:
        image: `[H, W, 3]` uint8 RGB; is not changed.
        ids: `[H, W]`, segment id of each pixel, from 1; 0 for pixels without a segment.
        labels: class of each segment.
        notes: text drawn after the class name of each segment. A segment whose note ends in "(crowd)" gets an outline
            but no tint.
        is_thing: whether each segment is a thing.
        meta: class names and palette.
        long_side: longer side of the result in pixels; None for that of the image, but at least 640.

    Returns:
        A new picture `[H', W', 3]`.
    """
    long_side = long_side or max(LONG_SIDE, *image.shape[:2])
    scale = long_side / max(image.shape[:2])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    picture = resize(image, size)
    large = cv2.resize(ids.numpy().astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int64)
    boxes = segment_boxes(torch.from_numpy(large), len(labels)).tolist()
    shades = instance_colors(boxes, labels, meta.palette)
    colors = [
        shade if thing else color_of(label, meta.palette) for shade, thing, label in zip(shades, is_thing, labels)
    ]
    tinted = [not note.endswith("(crowd)") for note in notes]
    table = np.array([(0, 0, 0), *colors], np.float64)
    opacity = OPACITY * np.array([False, *tinted])[large][..., None]
    picture = (picture * (1 - opacity) + table[large] * opacity).astype(np.uint8)
    thing = np.array([False, *is_thing])[large]
    _draw_edges(picture, large, thing, max(1, round(long_side / 500)))
    return _draw_names(picture, large, boxes, [meta.classes[label] for label in labels], notes, colors, is_thing)


def _draw_edges(picture: Picture, ids: NDArray[np.int64], thing: NDArray[np.bool_], width: int) -> None:
    """Draw the borders of the segments on `picture`, in place: white around things, dark otherwise."""
    border = np.zeros(ids.shape, bool)
    around_thing = np.zeros(ids.shape, bool)
    for first, second in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None),), (slice(None, -1),)),
    ):
        differing = ids[first] != ids[second]
        for side in (first, second):
            border[side] |= differing
            around_thing[side] |= differing & (thing[first] | thing[second])
    kernel = np.ones((width, width), np.uint8)
    for mask, color in ((border, (40, 40, 40)), (around_thing, (255, 255, 255))):
        picture[cv2.dilate(mask.astype(np.uint8), kernel) > 0] = color


def _draw_names(
    picture: Picture,
    ids: NDArray[np.int64],
    boxes: list[list[int]],
    names: list[str],
    notes: list[str],
    colors: list[Color],
    is_thing: list[bool],
) -> Picture:
    """Write each label where its segment is widest. Things come first; a label that would cover another is left out."""
    height, width = ids.shape
    font = make_font(max(11, round(max(height, width) / 56)))
    line = round(font.size) + 2 * PADDING
    canvas = Image.fromarray(picture)
    pen, taken = ImageDraw.Draw(canvas), np.zeros(ids.shape, bool)
    areas = np.bincount(ids.flatten(), minlength=len(names) + 1)[1:]
    for number in sorted(range(len(names)), key=lambda number: (not is_thing[number], -areas[number])):
        x1, y1, x2, y2 = boxes[number]
        if not areas[number]:
            continue
        inside = np.pad((ids[y1:y2, x1:x2] == number + 1).astype(np.uint8), 1)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
        y, x = (int(place) - 1 for place in np.unravel_index(distance.argmax(), distance.shape))
        text = fit_text(names[number], notes[number], font, width - 2 * PADDING)
        length = round(font.getlength(text)) + 2 * PADDING
        left, top = min(max(x1 + x - length // 2, 0), width - length), min(max(y1 + y - line // 2, 0), height - line)
        left, top = max(left, 0), max(top, 0)
        tag = slice(top, top + line), slice(left, left + length)
        if taken[tag].any():
            continue
        taken[tag] = True
        pen.rectangle((left, top, left + length - 1, top + line - 1), fill=colors[number])
        bright = "black" if is_bright(colors[number]) else "white"
        pen.text((left + PADDING, top + line / 2), text, bright, font, anchor="lm")
    return np.array(canvas)
