"""Draws detections and their ground truth: boxes, masks, keypoints."""

from __future__ import annotations

from collections.abc import Sequence

from chordate.ops.paste import paste_masks
from chordate.structures import DatasetMeta, Detections, InstanceTargets
from chordate.visualization.canvas import Annotation, Picture, draw_annotations, instance_colors
from chordate.visualization.task_drawing import draw, draw_targets

MIN_KEYPOINT_SCORE = 2.0  # keypoints with a lower logit are not drawn, as in Detectron


@draw.register
def draw_detections(
    prediction: Detections,
    image: Picture,
    meta: DatasetMeta,
    *,
    score_threshold: float = 0.0,
    long_side: int | None = None,
) -> Picture:
    """Draw boxes with class names and scores, and masks and keypoints if the model predicts them.

    A class has the same color in every picture; objects of the same class differ in shade. Keypoints with a logit below
    2 are not drawn.
    """
    return draw_annotations(image, detection_annotations(prediction, meta, score_threshold), long_side)


@draw_targets.register
def draw_instance_targets(
    targets: InstanceTargets, index: int, image: Picture, meta: DatasetMeta, *, long_side: int | None = None
) -> Picture:
    """Draw boxes (dashed for crowds) with class names, masks, and labeled keypoints.

    Ground truth and predictions have the same colors.
    """
    return draw_annotations(image, instance_annotations(targets, index, meta, image.shape[:2]), long_side)


def detection_annotations(detections: Detections, meta: DatasetMeta, score_threshold: float = 0.0) -> list[Annotation]:
    """Make an annotation for each detection that scores at least the threshold, in descending order of score."""
    annotations = []
    order = detections.scores.argsort(descending=True, stable=True)
    kept = order[detections.scores[order] >= score_threshold]
    labels = detections.labels[kept].tolist()
    colors = instance_colors(detections.boxes[kept].tolist(), labels, meta.palette)
    for i, label, color in zip(kept.tolist(), labels, colors):
        score = float(detections.scores[i])
        annotation = Annotation(detections.boxes[i].tolist(), meta.classes[label], f" {score:.2f}", color)
        if detections.masks is not None:
            annotation.mask = detections.masks[i].cpu().numpy()
        if detections.keypoints is not None:
            points = detections.keypoints[i].tolist()
            annotation.keypoints = [(x, y) if logit >= MIN_KEYPOINT_SCORE else None for x, y, logit in points]
            annotation.bones = _bones(meta)
        annotations.append(annotation)
    return annotations


def instance_annotations(
    targets: InstanceTargets, index: int, meta: DatasetMeta, size: Sequence[int]
) -> list[Annotation]:
    """One annotation per instance of one image, in the order of the targets.

    Args:
        targets: targets of a batch, on the CPU.
        index: index of the image in the batch.
        meta: class names, skeleton and palette.
        size: height and width of the image in pixels, with padding.
    """
    annotations = []
    valid = targets.valid[index]
    boxes, labels, crowd = (field[index][valid] for field in (targets.boxes, targets.labels, targets.crowd))
    masks = None if targets.masks is None else paste_masks(targets.masks[index][valid].float(), boxes, *size).numpy()
    keypoints = None if targets.keypoints is None else targets.keypoints[index][valid]
    colors = instance_colors(boxes.tolist(), labels.tolist(), meta.palette)
    for number, (box, label, is_crowd) in enumerate(zip(boxes.tolist(), labels.tolist(), crowd.tolist())):
        note = " (crowd)" if is_crowd else ""
        annotation = Annotation(box, meta.classes[label], note, colors[number], dashed=is_crowd)
        if masks is not None and not is_crowd:
            annotation.mask = masks[number]
        if keypoints is not None:
            points = keypoints[number].tolist()
            annotation.keypoints = [(x, y) if visibility else None for x, y, visibility in points]
            annotation.bones = _bones(meta)
        annotations.append(annotation)
    return annotations


def _bones(meta: DatasetMeta) -> Sequence[tuple[int, int]]:
    return meta.skeleton.bones if meta.skeleton is not None else ()
