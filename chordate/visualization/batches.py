"""Training batches as pictures: what a model sees, after augmentation and collation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from chordate.ops.paste import paste_masks
from chordate.structures import Batch, ClassTargets, InstanceTargets, Skeleton
from chordate.visualization.paint import Mark, Picture, colour_of, paint

STRIPE = 8  # pixels of the stripes that mark padding
STRIPES = np.array([[225, 225, 225], [190, 190, 190]], np.uint8)


def draw_batch(
    batch: Batch, classes: Sequence[str], long_side: int = 640, skeleton: Skeleton | None = None
) -> list[Picture]:
    """Each image of a batch with its padding striped and its targets drawn.

    Instances: boxes, labels, masks pasted back from their bitmaps, and labelled keypoints, each instance in a colour
    of its own; crowds are dashed. Classes: their names, with shares where several are mixed.

    Args:
        batch: from a training loader, on the CPU.
        classes: the name of each label.
        long_side: smaller pictures are enlarged to this side in pixels, so that names can be read.
        skeleton: has the lines between the keypoints.

    Returns:
        one picture `[H', W', 3]` an image.
    """
    pictures = []
    for index, image in enumerate(batch.images):
        ground = image.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy().copy()
        _stripe(ground, *batch.sizes[index].tolist())
        marks = _marks(batch, index, classes)
        for mark in marks:
            mark.bones = skeleton.bones if skeleton is not None and mark.points else ()
        pictures.append(paint(ground, marks, max(long_side, *ground.shape[:2])))
    return pictures


def describe(batch: Batch, index: int) -> str:
    """One line about an image of a batch: its size before and after the transforms, and what it shows."""
    info, (height, width) = batch.infos[index], batch.sizes[index].tolist()
    line = f"{info.height}×{info.width} → {height}×{width}"
    targets = batch.targets
    if not isinstance(targets, InstanceTargets):
        return line
    crowds = int((targets.valid & targets.crowd)[index].sum())
    count = int(targets.valid[index].sum()) - crowds
    line += f", {count or 'no'} instance{'' if count == 1 else 's'}"
    return f"{line}, {crowds} crowd{'' if crowds == 1 else 's'}" if crowds else line


def _stripe(ground: Picture, height: int, width: int) -> None:
    """Diagonal stripes where there is no picture: below `height` and right of `width`."""
    row, column = np.ogrid[: ground.shape[0], : ground.shape[1]]
    outside = (row >= height) | (column >= width)
    ground[outside] = STRIPES[(row + column) // STRIPE % 2][outside]


def _marks(batch: Batch, index: int, classes: Sequence[str]) -> list[Mark]:
    height, width = batch.sizes[index].tolist()
    if isinstance(batch.targets, ClassTargets):
        return _class_marks(batch.targets.labels[index], classes, [0, 0, width, height])
    if isinstance(batch.targets, InstanceTargets):
        return _instance_marks(batch.targets, index, classes, batch.images.shape[-2:])
    return []


def _class_marks(label: Tensor, classes: Sequence[str], whole: list[float]) -> list[Mark]:
    """Around the whole image; of a label `[]`, or of shares `[classes]` that a mixture has, the largest first."""
    if not label.ndim:
        return [Mark(whole, classes[int(label)], "", colour_of(int(label)))]
    shown = [number for number in label.argsort(descending=True).tolist() if label[number] > 0]
    return [Mark(whole, classes[n], f" {float(label[n]):.2f}", colour_of(n)) for n in shown]


def _instance_marks(targets: InstanceTargets, index: int, classes: Sequence[str], size: Sequence[int]) -> list[Mark]:
    marks = []
    valid = targets.valid[index]
    boxes, labels, crowd = (field[index][valid] for field in (targets.boxes, targets.labels, targets.crowd))
    masks = None if targets.masks is None else paste_masks(targets.masks[index][valid].float(), boxes, *size).numpy()
    points = None if targets.keypoints is None else targets.keypoints[index][valid]
    for number, (box, label, group) in enumerate(zip(boxes.tolist(), labels.tolist(), crowd.tolist())):
        mark = Mark(box, classes[label], " (crowd)" if group else "", colour_of(number), dashed=group)
        if masks is not None and not group:
            mark.mask = masks[number]
        if points is not None:
            mark.points = [(x, y) if seen else None for x, y, seen in points[number].tolist()]
        marks.append(mark)
    return marks
