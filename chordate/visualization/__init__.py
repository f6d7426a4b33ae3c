"""Pictures for people: detections drawn on images, ground truth beside them, and the curves of a training."""

from chordate.visualization.curves import plot_training
from chordate.visualization.pictures import draw, side_by_side, write_image

__all__ = ["draw", "plot_training", "side_by_side", "write_image"]
