"""Draws predictions, targets, batches and side-by-side sheets; plots training curves and reports.

Importing the package registers the drawing functions of the tasks that come with Chordate.
"""

from chordate.visualization.batch_drawing import describe_image, draw_batch
from chordate.visualization.canvas import Annotation, color_of, draw_annotations, to_picture, write_image
from chordate.visualization.classification_drawing import draw_class_targets, draw_classification
from chordate.visualization.coco_report_plots import plot_coco_report
from chordate.visualization.detection_drawing import draw_detections, draw_instance_targets
from chordate.visualization.panoptic_drawing import draw_panoptic_map, draw_panoptic_targets
from chordate.visualization.panoptic_report_plots import plot_panoptic_report
from chordate.visualization.pose_drawing import draw_pose_targets, draw_poses
from chordate.visualization.semantic_drawing import draw_semantic_map, draw_semantic_targets
from chordate.visualization.semantic_report_plots import plot_semantic_report
from chordate.visualization.side_by_side import side_by_side
from chordate.visualization.task_drawing import draw, draw_targets, plot_report
from chordate.visualization.training_curves import plot_training

__all__ = [
    "Annotation",
    "color_of",
    "describe_image",
    "draw",
    "draw_annotations",
    "draw_batch",
    "draw_class_targets",
    "draw_classification",
    "draw_detections",
    "draw_instance_targets",
    "draw_panoptic_map",
    "draw_panoptic_targets",
    "draw_pose_targets",
    "draw_poses",
    "draw_semantic_map",
    "draw_semantic_targets",
    "draw_targets",
    "plot_coco_report",
    "plot_panoptic_report",
    "plot_report",
    "plot_semantic_report",
    "plot_training",
    "side_by_side",
    "to_picture",
    "write_image",
]
