"""Draws training batches as the model receives them, after augmentation and collation."""

from __future__ import annotations

import numpy as np

from chordate.structures import Batch, DatasetMeta
from chordate.visualization.canvas import LONG_SIDE, Picture, to_picture
from chordate.visualization.task_drawing import draw_targets

STRIPE = 8  # width in pixels of the stripes that mark padding
STRIPES = np.array([[225, 225, 225], [190, 190, 190]], np.uint8)


def draw_batch(batch: Batch, meta: DatasetMeta, long_side: int = LONG_SIDE) -> list[Picture]:
    """Draw each image of a batch (the middle frame of a clip) with its targets; the padding is striped.

    Args:
        batch: a batch of a training loader, on the CPU.
        meta: metadata of the batch's dataset.
        long_side: pixels to which the longer side of smaller images is enlarged, so that names are legible.

    Returns:
        One picture `[H', W', 3]` per image.

    Raises:
        ConfigError: no function is registered in `draw_targets` for the type of the targets.
    """
    pictures = []
    for index, image in enumerate(batch.images):
        picture = to_picture(image)
        _stripe_padding(picture, *batch.sizes[index].tolist())
        side = max(long_side, *picture.shape[:2])
        pictures.append(draw_targets(batch.targets, index, picture, meta, long_side=side))
    return pictures


def describe_image(batch: Batch, index: int) -> str:
    """Describe an image of a batch in one line: its size before and after the transforms, and its targets."""
    info, (height, width) = batch.infos[index], batch.sizes[index].tolist()
    targets = "" if batch.targets is None else batch.targets.describe(index)
    return f"{info.height}×{info.width} → {height}×{width}" + (f", {targets}" if targets else "")


def _stripe_padding(picture: Picture, height: int, width: int) -> None:
    """Draw diagonal stripes below `height` and right of `width`, in place."""
    row, column = np.ogrid[: picture.shape[0], : picture.shape[1]]
    outside = (row >= height) | (column >= width)
    picture[outside] = STRIPES[(row + column) // STRIPE % 2][outside]
