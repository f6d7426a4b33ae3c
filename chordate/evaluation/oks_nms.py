"""Object keypoint similarity (OKS) between predicted poses, and NMS of poses by OKS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def oks(pose: Floats, others: Floats, area: float, areas: Floats, sigmas: Floats) -> NDArray[np.float64]:
    """Object keypoint similarity of one pose to `M` others, over all keypoints (cocodataset.org/#keypoints-eval).

    Args:
        pose: `[K, 2]` x, y in pixels.
        others: `[M, K, 2]` x, y in pixels.
        area: area of the object of `pose` in square pixels.
        areas: `[M]`, areas of the objects of `others`. Each similarity uses the mean of both areas.
        sigmas: `[K]`, the OKS sigma of each keypoint (half of COCO's κ).

    Returns:
        The similarities `[M]`, 0 … 1.
    """
    distance = ((others.astype(np.float64) - pose) ** 2).sum(-1)
    size = (area + areas.astype(np.float64))[:, None] / 2 + np.spacing(1)
    return np.exp(-distance / (2 * size * (2 * sigmas) ** 2)).mean(-1)


def oks_nms(poses: Floats, scores: Floats, areas: Floats, sigmas: Floats, threshold: float) -> NDArray[np.int64]:
    """Greedy NMS: drop each pose whose OKS with a kept pose of higher score exceeds the threshold.

    Args:
        poses: `[M, K, 2]` x, y in pixels, the poses of one image and class.
        scores: `[M]`.
        areas: `[M]`, areas of the objects in square pixels.
        sigmas: `[K]`, the OKS sigma of each keypoint (half of COCO's κ).
        threshold: OKS threshold, 0 … 1; 0.9 in Xiao et al.'s code.

    Returns:
        The indices of the kept poses, highest score first.
    """
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(first)
        similar = oks(poses[first], poses[order], float(areas[first]), areas[order], sigmas)
        order = order[similar <= threshold]
    return np.array(kept, np.int64)
