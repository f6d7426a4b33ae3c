"""Draws the classes of an image, predicted and ground truth."""

from __future__ import annotations

from torch import Tensor

from chordate.structures import Classification, ClassTargets, DatasetMeta
from chordate.visualization.canvas import Annotation, Picture, color_of, draw_annotations
from chordate.visualization.task_drawing import draw, draw_targets


@draw.register
def draw_classification(
    prediction: Classification,
    image: Picture,
    meta: DatasetMeta,
    *,
    score_threshold: float = 0.0,
    long_side: int | None = None,
) -> Picture:
    """Draw the top-scoring class with its score, regardless of the threshold."""
    label, score = prediction.top(1)[0]
    return draw_annotations(image, [_annotation(image, label, f" {score:.2f}", meta)], long_side)


@draw_targets.register
def draw_class_targets(
    targets: ClassTargets, index: int, image: Picture, meta: DatasetMeta, *, long_side: int | None = None
) -> Picture:
    """Draw the class; for soft targets (MixUp, CutMix), all classes of weight > 0 with their weights, largest first."""
    return draw_annotations(image, class_annotations(targets.labels[index], image, meta), long_side)


def class_annotations(label: Tensor, image: Picture, meta: DatasetMeta) -> list[Annotation]:
    """Annotations with the image as their box: one for a label `[]`, or one per class with weight > 0 for soft targets
    `[num_classes]`."""
    if not label.ndim:
        return [_annotation(image, int(label), "", meta)]
    labels = [number for number in label.argsort(descending=True).tolist() if label[number] > 0]
    return [_annotation(image, number, f" {float(label[number]):.2f}", meta) for number in labels]


def _annotation(image: Picture, label: int, note: str, meta: DatasetMeta) -> Annotation:
    height, width = image.shape[:2]
    return Annotation([0, 0, width, height], meta.classes[label], note, color_of(label, meta.palette))
