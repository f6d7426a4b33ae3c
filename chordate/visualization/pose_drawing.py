"""Draws poses and their ground truth: boxes and skeletons, with the left and the right side in two colors."""

from __future__ import annotations

from collections.abc import Sequence

from chordate.structures import DatasetMeta, Poses, PoseTargets, Skeleton
from chordate.visualization.canvas import Annotation, Color, Picture, draw_annotations, instance_colors
from chordate.visualization.task_drawing import draw, draw_targets

MIN_CONFIDENCE = 0.2  # minimum confidence of drawn keypoints; Simple Baselines treats others as not visible
LEFT, RIGHT = (255, 150, 20), (60, 200, 60)  # orange, green


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
        annotations.append(_annotation(boxes[number], meta.classes[labels[number]], note, color, points, meta.skeleton))
    return draw_annotations(image, annotations, long_side)


@draw_targets.register
def draw_pose_targets(
    targets: PoseTargets, index: int, image: Picture, meta: DatasetMeta, *, long_side: int | None = None
) -> Picture:
    """Draw the box and the labeled keypoints of the object of an image, in the colors used for predictions."""
    label, box = int(targets.labels[index]), targets.boxes[index].tolist()
    (color,) = instance_colors([box], [label], meta.palette)
    points = [(x, y) if visibility else None for x, y, visibility in targets.keypoints[index].tolist()]
    annotation = _annotation(box, meta.classes[label], "", color, points, meta.skeleton)
    return draw_annotations(image, [annotation], long_side)


def _annotation(
    box: Sequence[float],
    name: str,
    note: str,
    color: Color,
    points: Sequence[Sequence[float] | None],
    skeleton: Skeleton | None,
) -> Annotation:
    if skeleton is None:
        return Annotation(box, name, note, color, keypoints=points)
    sides = side_colors(skeleton, color)
    return Annotation(box, name, note, color, keypoints=points, bones=skeleton.bones, keypoint_colors=sides)


def side_colors(skeleton: Skeleton, middle: Color) -> list[Color]:
    """Color of each keypoint: orange for the left side, green for the right, `middle` for unpaired keypoints."""
    colors = []
    for index, (name, other) in enumerate(zip(skeleton.names, skeleton.mirrored)):
        # In alphabetical order, "left" comes before "right", and "l" before "r".
        colors.append(middle if other == index else LEFT if name < skeleton.names[other] else RIGHT)
    return colors
