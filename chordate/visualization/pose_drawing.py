"""Draws poses and their ground truth: the box, the keypoints and the bones of each object."""

from __future__ import annotations

from chordate.structures import DatasetMeta, Poses, PoseTargets
from chordate.visualization.canvas import Annotation, Picture, draw_annotations, instance_colors
from chordate.visualization.task_drawing import draw, draw_targets

MIN_CONFIDENCE = 0.2  # keypoints below are not drawn, as the authors of Simple Baselines count them as not visible


@draw.register
def draw_poses(
    prediction: Poses,
    image: Picture,
    meta: DatasetMeta,
    *,
    score_threshold: float = 0.0,
    long_side: int | None = None,
) -> Picture:
    """Draw the box and the skeleton of each pose; keypoints with a confidence below 0.2 are left out."""
    poses = prediction.above(score_threshold)
    labels, boxes = poses.labels.tolist(), poses.boxes.tolist()
    annotations = []
    for number, color in enumerate(instance_colors(boxes, labels, meta.palette)):
        assert poses.keypoints is not None
        note = f" {float(poses.scores[number]):.2f}"
        points = [(x, y) if c >= MIN_CONFIDENCE else None for x, y, c in poses.keypoints[number].tolist()]
        annotation = Annotation(boxes[number], meta.classes[labels[number]], note, color)
        annotation.keypoints, annotation.bones = points, _bones(meta)
        annotations.append(annotation)
    return draw_annotations(image, annotations, long_side)


@draw_targets.register
def draw_pose_targets(
    targets: PoseTargets, index: int, image: Picture, meta: DatasetMeta, *, long_side: int | None = None
) -> Picture:
    """Draw the box and the labeled keypoints of an image's object, in the color of its prediction."""
    label, box = int(targets.labels[index]), targets.boxes[index].tolist()
    (color,) = instance_colors([box], [label], meta.palette)
    annotation = Annotation(box, meta.classes[label], "", color)
    annotation.keypoints = [(x, y) if visibility else None for x, y, visibility in targets.keypoints[index].tolist()]
    annotation.bones = _bones(meta)
    return draw_annotations(image, [annotation], long_side)


def _bones(meta: DatasetMeta) -> tuple[tuple[int, int], ...]:
    return meta.skeleton.bones if meta.skeleton is not None else ()
