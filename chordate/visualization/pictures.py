"""Detections drawn on an image, and sheets that show them beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import hotcoco
import numpy as np
from PIL import Image, ImageDraw

from chordate.data.coco_annotations import box_of
from chordate.data.image_io import read_image
from chordate.errors import DataError
from chordate.structures import Classification, Detections, ImageInfo, Skeleton
from chordate.visualization.paint import Mark, Picture, colour_of, fit_text, make_font, paint

MARGIN = 14  # pixels around the images of a sheet
CAPTION = 15  # size of a sheet's captions in pixels
SURE = 2.0  # a keypoint's logit from which on it is drawn, as Detectron does


def draw(
    image: Picture,
    detections: Detections,
    classes: Sequence[str],
    threshold: float = 0.0,
    long_side: int = 640,
    skeleton: Skeleton | None = None,
) -> Picture:
    """Boxes with class names and scores, and masks and keypoints where there are some.

    Args:
        image: `[H, W, 3]` uint8 RGB.
        detections: in pixels of `image`.
        classes: the name of each label; a label has the same colour in every picture. With masks or keypoints each
            object has a colour of its own, since neighbours are often of one class.
        threshold: lower scores are left out.
        long_side: smaller pictures are enlarged to this side in pixels, so that names can be read.
        skeleton: has the lines between the keypoints. Keypoints that are hardly found are left out.

    Returns:
        a new picture `[H', W', 3]`, of the image's size or enlarged.
    """
    return paint(image, _found(detections, classes, threshold, skeleton), max(long_side, *image.shape[:2]))


def draw_class(image: Picture, found: Classification, classes: Sequence[str], long_side: int = 640) -> Picture:
    """An image that was classified, with its best class and that one's score; otherwise as `draw`."""
    return paint(image, [_best(image, found, classes)], max(long_side, *image.shape[:2]))


def class_sheet(
    images: Sequence[Picture],
    found: Sequence[Classification],
    truth: Sequence[str],
    classes: Sequence[str],
    columns: int = 2,
    panel: int = 360,
) -> Picture:
    """A sheet of images with the best class of each in it, and its true one above; otherwise as `side_by_side`."""
    drawn = [
        (paint(image, [_best(image, one, classes)], panel), name)
        for image, one, name in zip(images, found, truth, strict=True)
    ]
    return _compose([drawn[i : i + columns] for i in range(0, len(drawn), columns)], panel)


class GroundTruth(Protocol):
    """What `side_by_side` asks of a data set."""

    classes: tuple[str, ...]
    category_ids: list[int]  # of each label
    coco: hotcoco.COCO


def side_by_side(
    infos: Sequence[ImageInfo],
    detections: Sequence[Detections],
    dataset: GroundTruth,
    threshold: float = 0.5,
    columns: int = 2,
    panel: int = 360,
) -> Picture:
    """A sheet of images, each twice: its ground truth at the left, what was found at the right.

    Args:
        infos: the images; read from their paths.
        detections: of each, in pixels of the original image.
        dataset: the data set they belong to. Crowds are dashed.
        threshold: lower scores are left out.
        columns: images in a row.
        panel: long side in pixels of each picture.
    """
    rows: list[list[tuple[Picture, str]]] = []
    for number, (info, found) in enumerate(zip(infos, detections, strict=True)):
        image = read_image(info.path, (info.height, info.width)).permute(1, 2, 0).numpy()
        truth = _truth(dataset, info.image_id, masks=found.masks is not None)
        shown = _found(found, dataset.classes, threshold, getattr(dataset, "skeleton", None))
        if number % columns == 0:
            rows.append([])
        rows[-1] += [
            (paint(image, truth, panel), f"{Path(info.path).name}: {len(truth)} in ground truth"),
            (paint(image, shown, panel), f"{len(shown)} found, score ≥ {threshold:g}"),
        ]
    return _compose(rows, panel)


def _compose(rows: Sequence[Sequence[tuple[Picture, str]]], panel: int) -> Picture:
    """Captioned pictures in rows, in pairs close together; each row is as high as its highest picture."""
    font, strip, close = make_font(CAPTION), 2 * CAPTION, MARGIN // 3
    lefts = [
        MARGIN + i * (panel + close) + i // 2 * (2 * MARGIN - close) for i in range(max(map(len, rows), default=0))
    ]
    heights = [strip + max(picture.shape[0] for picture, _ in row) + MARGIN for row in rows]
    sheet = Image.new("RGB", (max(lefts, default=0) + panel + MARGIN, sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for row, top in zip(rows, np.cumsum([MARGIN // 2, *heights]).tolist()):
        for (picture, caption), left in zip(row, lefts):
            text = fit_text(caption, "", font, panel)
            pen.text((left, top + strip // 2), text, "black", font, anchor="lm")
            sheet.paste(Image.fromarray(picture), (left, top + strip))
    return np.array(sheet)


def write_image(path: str | Path, image: Picture) -> None:
    """Write an RGB picture `[H, W, 3]` uint8; the file's ending says the format.

    Raises:
        DataError: the folder is not there or the ending is not known.
    """
    try:
        Image.fromarray(image).save(path, quality=92)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written: {error}") from error


def _best(image: Picture, found: Classification, classes: Sequence[str]) -> Mark:
    """Around the whole image."""
    label, score = found.top(1)[0]
    return Mark([0, 0, image.shape[1], image.shape[0]], classes[label], f" {score:.2f}", colour_of(label))


def _found(
    detections: Detections, classes: Sequence[str], threshold: float, skeleton: Skeleton | None = None
) -> list[Mark]:
    """Of detections, best first."""
    marks = []
    bones = () if skeleton is None else skeleton.bones
    shaped = detections.masks is not None or detections.keypoints is not None
    for number, i in enumerate(detections.scores.argsort(descending=True, stable=True).tolist()):
        score, label = float(detections.scores[i]), int(detections.labels[i])
        if score < threshold:
            break
        colour = colour_of(number if shaped else label)
        mark = Mark(detections.boxes[i].tolist(), classes[label], f" {score:.2f}", colour)
        if detections.masks is not None:
            mark.mask = detections.masks[i].cpu().numpy()
        if detections.keypoints is not None:
            mark.points = [(x, y) if s >= SURE else None for x, y, s in detections.keypoints[i].tolist()]
            mark.bones = bones
        marks.append(mark)
    return marks


def _truth(dataset: GroundTruth, image_id: int, masks: bool = False) -> list[Mark]:
    """Of an image's annotations; with keypoints where the data set reads them."""
    skeleton = getattr(dataset, "skeleton", None)
    label_of = {category: label for label, category in enumerate(dataset.category_ids)}
    ids = dataset.coco.get_ann_ids(img_ids=[image_id], cat_ids=list(label_of))
    marks = []
    for number, annotation in enumerate(dataset.coco.load_anns(ids)):
        if not (annotation.get("bbox") or annotation.get("segmentation")):
            continue  # the health check has reported it
        label, (x, y, w, h) = label_of[annotation["category_id"]], box_of(dataset.coco, annotation)
        crowd = bool(annotation.get("iscrowd"))
        name, note = dataset.classes[label], " (crowd)" if crowd else ""
        colour = colour_of(number if masks or skeleton is not None else label)
        mark = Mark([x, y, x + w, y + h], name, note, colour, dashed=crowd)
        if masks and annotation.get("segmentation"):
            mark.mask = dataset.coco.ann_to_mask(annotation) > 0
        if skeleton is not None:
            numbers = annotation.get("keypoints") or []
            mark.points = [(x + 0.5, y + 0.5) if seen else None for x, y, seen in zip(*[iter(numbers)] * 3)]
            mark.bones = skeleton.bones if numbers else ()
        marks.append(mark)
    return marks
