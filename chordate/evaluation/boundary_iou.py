"""Boundary IoU of semantic segmentation: intersection over union of the pixels near the classes' outlines."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

OUTSIDE = -9  # the label beyond the border of an image: an outline runs along it, as in the authors' code


class BoundaryIoU:
    """Counts pixels for the boundary IoU of each class (Cheng et al. 2021, equation 3).

    The boundary of a class is its pixels within `d` of its outline, where `d` is a fraction of the image's diagonal.
    Ignored pixels are removed from both sides before.

    Args:
        classes: their number.
        distance: `d` as a fraction of the diagonal; 0.02 in the paper, 0.005 there for Cityscapes.

    Attributes:
        counts: `[3, classes]` int64, the pixels of the boundary in both, in the ground truth, in the prediction.
    """

    def __init__(self, classes: int, distance: float):
        self.classes, self.distance = classes, distance
        self.counts = np.zeros((3, classes), np.int64)

    def update(self, truth: NDArray[np.integer], labels: NDArray[np.integer]) -> None:
        """Count the pixels of one image.

        Args:
            truth: `[H, W]`, the number of classes where a pixel is ignored.
            labels: `[H, W]` predicted.
        """
        distance = max(1, round(self.distance * float(np.hypot(*truth.shape))))
        t = truth.astype(np.int16)
        p = np.where(t == self.classes, t, labels).astype(np.int16)
        true, predicted = boundary(t, distance), boundary(p, distance)
        for row, pixels in enumerate((t[true & predicted & (t == p)], t[true], p[predicted])):
            self.counts[row] += np.bincount(pixels, minlength=self.classes + 1)[: self.classes]

    def merge(self, other: BoundaryIoU) -> None:
        """Add the counts of another rank."""
        self.counts += other.counts

    def per_class(self) -> NDArray[np.float64]:
        """`[classes]`, -1 where the class has no boundary in either."""
        both, true, predicted = self.counts
        union = true + predicted - both
        return np.where(union > 0, both / np.maximum(union, 1), -1.0)


def boundary(labels: NDArray[np.int16], distance: int) -> NDArray[np.bool_]:
    """`[H, W]`, the pixels with another label, or the border of the image, within `distance` pixels (chessboard).

    For each class these are its pixels that `distance` erosions by 3×3 remove.
    """
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    smallest = cv2.erode(labels, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=[OUTSIDE])
    return (smallest != labels) | (cv2.dilate(labels, kernel) != labels)
