"""Generates the shapes dataset: a small COCO-format dataset, made in seconds, for demos and tests without a download.

Colored shapes overlap on varied backgrounds. As in COCO, annotations cover the *visible* region: regions without
holes are polygons; regions with holes (such as rings) and crowds are RLE. Some images have a crowd: a cluster of many
small shapes with one `iscrowd` annotation. Some images are empty. For panoptic segmentation, the backgrounds are stuff.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from rich.progress import track

from chordate.data.shapes_colors import background, contrasting_color, shading
from chordate.data.shapes_panoptic import PanopticWriter
from chordate.errors import DataError

CLASSES = ("circle", "rectangle", "triangle", "star", "ring")
SPLITS = ("train", "val")
SUPERSAMPLING = 4  # cells of the fine drawing grid per pixel and axis
MIN_VISIBLE = 0.3  # minimum visible fraction of a shape's area
MIN_PIXELS = 12  # minimum visible area of a shape, in pixels
MIN_PART = 2  # minimum area of a visible part of an occluded shape, in pixels; smaller parts get no polygon
EMPTY_FRACTION, CROWD_FRACTION = 0.04, 0.08  # fractions of images without shapes, and with a crowd

Contour = NDArray[np.float64]  # [points, 2] x, y


@dataclass
class Shape:
    """The objects of one annotation: a single shape, or the members of a crowd.

    Attributes:
        label: index into CLASSES.
        members: the contours of each member in pixels; a second contour is a hole.
        crowd: whether it is annotated as `iscrowd`.
    """

    label: int
    members: list[list[Contour]]
    crowd: bool = False

    def full_area(self) -> float:
        """Area in pixels, ignoring occlusion and the image's border."""
        areas = ([cv2.contourArea(c.astype(np.float32)) for c in member] for member in self.members)
        return sum(outer - sum(holes) for outer, *holes in areas)


@dataclass
class Scene:
    """A drawn image.

    Attributes:
        image: `[size, size, 3]` RGB.
        annotations: COCO annotations without `id` and `image_id`, from back to front.
        owner: `[size, size]`, number (from 1) of the annotation that covers most of each pixel; 0 for the background.
        background: index into BACKGROUNDS.
    """

    image: NDArray[np.uint8]
    annotations: list[dict[str, Any]]
    owner: NDArray[np.int64]
    background: int


def generate_shapes(root: str | Path, *, train: int = 1200, val: int = 300, size: int = 128, seed: int = 0) -> None:
    """Write the images `root/{train,val}/*.jpg` and the annotations `root/annotations/{train,val}.json`.

    For panoptic segmentation, also write `annotations/panoptic_{train,val}.json` and folders of PNGs; for semantic
    segmentation, the label images `semantic/{train,val}/*.png` (see `shapes_panoptic`).

    Image `i` of a split depends only on (seed, split, i, size), so a larger set starts with the images of a smaller
    one, and the splits have no images in common.

    Args:
        train, val: number of images.
        size: side of the square images in pixels, at least 64.
        seed: random seed of the images.

    Raises:
        DataError: `size` is less than 64, or another number is negative.
    """
    if size < 64 or train < 0 or val < 0 or seed < 0:
        raise DataError(f"shapes: size must be ≥ 64, other numbers ≥ 0, got {size=}, {train=}, {val=}, {seed=}")
    root = Path(root)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(zip(SPLITS, (train, val))):
        (root / split).mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        panoptic = PanopticWriter(root, split, CLASSES)
        for index in track(range(count), f"shapes: {split:5}", disable=not count):
            scene = make_scene(np.random.default_rng([seed, number, index]), size)
            image_id, file_name = index + 1, f"{index + 1:06}.jpg"
            cv2.imwrite(str(root / split / file_name), scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            images.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
            annotations += [
                {"id": len(annotations) + n, "image_id": image_id, **annotation}
                for n, annotation in enumerate(scene.annotations, 1)
            ]
            panoptic.add(images[-1], scene.annotations, scene.owner, scene.background)
        categories = [{"id": n, "name": name, "supercategory": "shape"} for n, name in enumerate(CLASSES, 1)]
        info = {"description": f"Chordate shapes, {split}, size {size}, seed {seed}"}
        content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
        panoptic.write()


def make_image(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Draw one image. Returns the image `[size, size, 3]` RGB, and its annotations (see `Scene`)."""
    scene = make_scene(rng, size)
    return scene.image, scene.annotations


def make_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw one image."""
    shapes, owner = _arrange(rng, size)
    canvas, pattern = background(rng, size)
    annotations, coverages = [], [np.zeros((size, size), np.float32)]
    for number, shape in enumerate(shapes, 1):
        visible = (owner == number).astype(np.uint8)
        coverage = cv2.resize(visible.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        color = contrasting_color(rng, canvas, coverage)
        canvas += coverage[..., None] * (color + shading(rng, size, 12) - canvas)
        annotations.append(annotate(shape, visible, coverage))
        coverages.append(coverage)
    canvas += rng.uniform(1, 8) * rng.standard_normal(canvas.shape, np.float32)  # sensor noise
    coverages[0] = 1 - np.sum(coverages, axis=0)
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image, annotations, np.argmax(coverages, axis=0), pattern)


# Layout


def _arrange(rng: np.random.Generator, size: int) -> tuple[list[Shape], NDArray[np.uint8]]:
    """Shapes from back to front, and the number (from 1) of the visible shape at each point of the fine grid.

    A shape is added only if it and all shapes below it stay visible enough, so every drawn shape is annotated.
    """
    side = size * SUPERSAMPLING
    owner = np.zeros((side, side), np.uint8)
    shapes: list[Shape] = []
    needed, seen = [0.0], [np.inf]  # areas per shape, in points of the fine grid; entry 0 is the background
    kind = rng.random()
    count = 0 if kind < EMPTY_FRACTION else int(rng.integers(1, 7))
    has_crowd = EMPTY_FRACTION <= kind < EMPTY_FRACTION + CROWD_FRACTION
    for attempt in range(3 * count):
        if len(shapes) == count:
            break
        shape = _crowd(rng, size) if has_crowd and attempt == 0 else _single(rng, size)
        drawn = np.zeros_like(owner)
        for member in shape.members:
            cv2.fillPoly(drawn, [np.rint(c * SUPERSAMPLING - 0.5).astype(np.int32) for c in member], 1)
        covered = np.bincount(owner[drawn > 0], minlength=len(seen))
        left = [*(np.array(seen) - covered), float(covered.sum())]
        wanted = [*needed, max(MIN_VISIBLE * shape.full_area(), MIN_PIXELS) * SUPERSAMPLING**2]
        if all(have >= need for have, need in zip(left, wanted)):
            shapes.append(shape)
            owner[drawn > 0] = len(shapes)
            needed, seen = wanted, left
    return shapes, owner


def _single(rng: np.random.Generator, size: int) -> Shape:
    label = int(rng.integers(len(CLASSES)))
    radius = size * np.exp(rng.uniform(np.log(0.08), np.log(0.28)))
    center = rng.uniform(0.4 * radius, size - 0.4 * radius, 2)  # the shape may lie partly outside the image
    return Shape(label, [_outline(rng, label, center, radius)])


def _crowd(rng: np.random.Generator, size: int) -> Shape:
    label = int(rng.integers(len(CLASSES)))
    middle, spread = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0.07, 0.14, 2) * size
    members = [
        _outline(rng, label, rng.normal(middle, spread), size * rng.uniform(0.025, 0.045))
        for _ in range(rng.integers(14, 29))
    ]
    return Shape(label, members, crowd=True)


def _outline(rng: np.random.Generator, label: int, center: NDArray[np.float64], radius: float) -> list[Contour]:
    turn = rng.uniform(0, 2 * np.pi)
    return [center + radius * contour for contour in OUTLINES[CLASSES[label]](rng, turn)]


def _polar(angles: NDArray[np.float64], radii: NDArray[np.float64] | float = 1.0) -> Contour:
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radii, (-1, 1))


def _even(points: int, turn: float) -> NDArray[np.float64]:
    return turn + np.arange(points) * 2 * np.pi / points


def _circle(rng: np.random.Generator, turn: float) -> list[Contour]:
    return [_polar(_even(64, turn))]


def _rectangle(rng: np.random.Generator, turn: float) -> list[Contour]:
    half = np.arctan(rng.uniform(0.35, 1))  # half the angle between the diagonals; its tangent is the aspect ratio
    return [_polar(turn + np.array([half, np.pi - half, np.pi + half, -half]))]


def _triangle(rng: np.random.Generator, turn: float) -> list[Contour]:
    return [_polar(_even(3, turn) + rng.uniform(-0.3, 0.3, 3))]


def _star(rng: np.random.Generator, turn: float) -> list[Contour]:
    return [_polar(_even(10, turn), np.tile([1, rng.uniform(0.38, 0.5)], 5))]


def _ring(rng: np.random.Generator, turn: float) -> list[Contour]:
    return [_polar(_even(64, turn)), _polar(_even(64, turn), rng.uniform(0.45, 0.65))]


OUTLINES: dict[str, Callable[[np.random.Generator, float], list[Contour]]] = {
    "circle": _circle,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
}


# Annotation


def annotate(shape: Shape, visible: NDArray[np.uint8], coverage: NDArray[np.float32]) -> dict[str, Any]:
    """The annotation of one shape: COCO's fields except `id` and `image_id`.

    Args:
        shape: the shape; only its class and `crowd` are used.
        visible: `[SUPERSAMPLING * size, SUPERSAMPLING * size]`, 1 at the visible points of the fine grid.
        coverage: `[size, size]`, the fraction 0 … 1 of each pixel that the shape covers.
    """
    size = len(coverage)
    solid = cv2.morphologyEx(visible, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    contours, hierarchy = cv2.findContours(solid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    has_hole = bool((hierarchy[0, :, 3] >= 0).any())
    if shape.crowd or has_hole:
        region = (coverage >= min(0.5, coverage.max())).astype(np.uint8)
        if shape.crowd:  # fill the gaps between members, as an annotator would
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size // 8, size // 8))
            region = cv2.morphologyEx(region, cv2.MORPH_CLOSE, kernel)
        code = rle.encode(np.asfortranarray(region))
        segmentation: Any = {"size": code["size"], "counts": code["counts"].decode()}
        box = rle.toBbox(code).tolist()
    else:
        areas = [cv2.contourArea(contour) for contour in contours]
        least = min(MIN_PART * SUPERSAMPLING**2, max(areas))
        smooth = [cv2.approxPolyDP(c, 0.7, closed=True)[:, 0] for c, area in zip(contours, areas) if area >= least]
        parts = [(c + 0.5) / SUPERSAMPLING for c in smooth]
        segmentation = [part.round(3).ravel().tolist() for part in parts]
        code = rle.merge(rle.frPyObjects(segmentation, size, size))
        low, high = np.concatenate(parts).min(0), np.concatenate(parts).max(0)
        box = [*low.tolist(), *(high - low).tolist()]
    return {
        "category_id": shape.label + 1,
        "bbox": [round(value, 3) for value in box],
        "area": float(rle.area(code)),
        "iscrowd": int(shape.crowd),
        "segmentation": segmentation,
    }


def main(arguments: list[str] | None = None) -> None:
    """The command `python -m chordate.data.shapes ROOT`."""
    parser = argparse.ArgumentParser(prog="python -m chordate.data.shapes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="folder to write to")
    parser.add_argument("--train", type=int, default=1200, help="training images (default %(default)s)")
    parser.add_argument("--val", type=int, default=300, help="validation images (default %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    try:
        generate_shapes(**vars(parser.parse_args(arguments)))
    except (DataError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
