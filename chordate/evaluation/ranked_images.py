"""RankedImage: an image of a report, with its score."""

from __future__ import annotations

from dataclasses import dataclass

from chordate.structures import Batch, Prediction

WORST = 6  # number of images in a report: those with the lowest scores


@dataclass(frozen=True)
class RankedImage:
    """An image, its prediction and its score.

    Attributes:
        score: the metric of this image alone, such as its mean IoU.
        original: the untransformed image with its targets, as a batch of size 1.
        prediction: the prediction, at the original size of the image.
    """

    score: float
    original: Batch
    prediction: Prediction
