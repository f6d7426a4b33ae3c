"""Object keypoint similarity between predicted poses, and the suppression of duplicates by it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def oks(pose: Floats, others: Floats, area: float, areas: Floats, sigmas: Floats) -> NDArray[np.float64]:
    """The similarity of one pose to others, 0 … 1 (cocodataset.org/#keypoints-eval), over all keypoints.

    Args:
        pose: `[K, 2]` x, y in pixels.
        others: `[M, K, 2]`.
        area, areas: of the object and of the others `[M]` in square pixels; the mean of both is used.
        sigmas: `[K]`, COCO's constants.

    Returns:
        `[M]`.
    """
    distance = ((others.astype(np.float64) - pose) ** 2).sum(-1)
    size = (area + areas.astype(np.float64))[:, None] / 2 + np.spacing(1)
    return np.exp(-distance / (2 * size * (2 * sigmas) ** 2)).mean(-1)


def oks_nms(poses: Floats, scores: Floats, areas: Floats, sigmas: Floats, threshold: float) -> NDArray[np.int64]:
    """Greedy suppression of poses that are more similar than the threshold to one with a higher score.

    Args:
        poses: `[M, K, 2]` of one image and class.
        scores: `[M]`.
        areas: `[M]`.
        sigmas: `[K]`.
        threshold: 0 … 1; 0.9 in Xiao et al.'s code.

    Returns:
        The indices of the poses that stay, highest score first.
    """
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(first)
        similar = oks(poses[first], poses[order], float(areas[first]), areas[order], sigmas)
        order = order[similar <= threshold]
    return np.array(kept, np.int64)
