"""Boundary IoU for semantic segmentation: intersection over union of the pixels near the outlines of the classes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

OUTSIDE = -9  # label outside the image, so that the image border counts as an outline, as in the authors' code


class BoundaryIoU:
    """Counts pixels for the boundary IoU of each class (Cheng et al. 2021, equation 3).

    The boundary region of a class is the pixels of the class within `d` pixels of its outline; `d` is a fraction of the
    image diagonal. Pixels that are ignored in the ground truth are ignored in the prediction too.

    Args:
        classes: number of classes.
        distance: `d` as a fraction of the image diagonal; 0.02 in the paper (0.005 for Cityscapes).

    Attributes:
        counts: `[3, classes]` int64: number of boundary pixels in both ground truth and prediction, in the ground
            truth, and in the prediction.
    """

    def __init__(self, classes: int, distance: float):
        self.classes, self.distance = classes, distance
        self.counts = np.zeros((3, classes), np.int64)

    def update(self, truth: NDArray[np.integer], labels: NDArray[np.integer]) -> None:
        """Count the pixels of one image.

        Args:
            truth: `[H, W]`, ground-truth labels; ignored pixels have the value `classes`.
            labels: `[H, W]`, predicted labels.
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
        """Boundary IoU of each class `[classes]`; -1 for a class without boundary pixels."""
        both, true, predicted = self.counts
        union = true + predicted - both
        return np.where(union > 0, both / np.maximum(union, 1), -1.0)


def boundary(labels: NDArray[np.int16], distance: int) -> NDArray[np.bool_]:
    """Mask `[H, W]` of the pixels that are at most `distance` pixels (Chebyshev distance) from a pixel that has
    a different label or is outside the image.

    In each class, these are the pixels that `distance` erosions with a 3×3 kernel remove.
    """
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    smallest = cv2.erode(labels, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=[OUTSIDE])
    return (smallest != labels) | (cv2.dilate(labels, kernel) != labels)
