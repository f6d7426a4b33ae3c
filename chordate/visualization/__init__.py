"""Pictures for people: detections and classes drawn on images, ground truth beside them, the curves of a training."""

from chordate.visualization.batches import draw_batch
from chordate.visualization.pictures import class_sheet, draw, draw_class, side_by_side, write_image
from chordate.visualization.training_curves import plot_training

__all__ = ["class_sheet", "draw", "draw_batch", "draw_class", "plot_training", "side_by_side", "write_image"]
