"""Differences between a model of another library and our model with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chordate.heads.anchor_head import BOX_WEIGHTS
from chordate.ops.boxes import decode
from chordate.structures import Batch, Detections

BOX, SCORE = 1e-2, 1e-4  # detections match if their boxes (in pixels) and scores differ by less
SHARE = 1e-3  # fraction of the mask pixels that may differ, since their probabilities are almost 0.5
DEVIATIONS = 1e-3  # limit on differences of feature maps and of the outputs for anchors, in standard deviations


class Difference(NamedTuple):
    """Differences between the predictions of two libraries on one or more images.

    Attributes:
        count: number of the library's detections, segments, pixels of semantic maps, or logits.
        matched: number of these that our predictions match: detections within `BOX` and `SCORE`, segments with an IoU
            above 0.99, pixels of the same class; all logits if `levels` is at most `DEVIATIONS`, else 0. -1 if in an
            image, our number of detections or segments differs, or two detections match the same one of ours.
        box, score: largest differences between matched detections, in pixels and in score.
        masks: number of mask pixels of matched detections that differ, and number of mask pixels.
        keypoints: number of keypoints of matched detections that differ by more than `BOX`, and number of keypoints.
        levels: largest difference between feature maps, outputs for anchors, or logits, in standard deviations.
    """

    count: int
    matched: int
    box: float = 0.0
    score: float = 0.0
    masks: tuple[int, int] = (0, 0)
    keypoints: tuple[int, int] = (0, 0)
    levels: float = 0.0

    def row(self) -> str:
        """The columns of a table in Markdown."""
        parts = [f"{self.masks[0]} of {self.masks[1]:,} mask pixels"] if self.masks[1] else []
        parts += [f"{self.keypoints[0]} of {self.keypoints[1]:,} keypoints"] if self.keypoints[1] else []
        numbers = f"{self.box:.1e} | {self.score:.1e} | {self.levels:.1e}"
        return f"{self.count:,} | {self.matched:,} | {numbers} | {', '.join(parts)}"


def check(found: Difference, tolerated: float = 0.0) -> None:
    """Assert that the predictions agree; `tolerated` is the fraction that need not match."""
    assert found.count >= 20, "too little was compared"
    assert found.matched >= (1 - tolerated) * found.count, found
    assert found.masks[0] <= SHARE * found.masks[1], found
    assert found.keypoints[0] == 0, found
    assert found.levels <= DEVIATIONS, found


def merge(parts: Sequence[Difference]) -> Difference:
    """The sums of the counts, and the largest differences; `matched` is -1 if it is -1 in any part."""
    counts, matched, boxes, scores, masks, keypoints, levels = zip(*parts)
    total = -1 if -1 in matched else sum(matched)
    sums = [(sum(one for one, _ in pairs), sum(all_ for _, all_ in pairs)) for pairs in (masks, keypoints)]
    return Difference(sum(counts), total, max(boxes), max(scores), *sums, largest(levels))


def compare_detections(
    ours: Detections,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor | None = None,
    keypoints: Tensor | None = None,
) -> Difference:
    """Match each detection of the library to our detection of the same class whose box is nearest.

    Args:
        ours: our detections.
        boxes, scores, labels, masks, keypoints: the library's; see `Detections`. Scores of keypoints are not compared.
    """
    distance = (boxes[:, None] - ours.boxes[None]).abs().amax(-1)
    distance = torch.where(labels[:, None] == ours.labels[None], distance, torch.inf)
    box, index = distance.min(dim=1)
    score = (ours.scores[index] - scores).abs()
    same = (box < BOX) & (score < SCORE)
    pixels = points = (0, 0)
    if masks is not None:
        differing = (ours.masks[index].bool() != masks)[same]  # type: ignore[index]
        pixels = int(differing.sum()), int(masks[same].sum())
    if keypoints is not None:
        apart = (ours.keypoints[index] - keypoints)[same, :, :2].abs().amax(-1)  # type: ignore[index]
        points = int((apart > BOX).sum()), apart.numel()
    matched = int(same.sum()) if len(ours) == len(boxes) and len(index[same].unique()) == same.sum() else -1
    worst = [float(one[same].max()) if same.any() else 0.0 for one in (box, score)]
    return Difference(len(boxes), matched, *worst, pixels, points)


class Level(NamedTuple):
    """One level of a feature pyramid, of one image.

    Attributes:
        features: feature map `[1, C, H, W]`.
        anchors: `[A, 4]`, the anchors of the first cell, then those of the next cell to the right …
        logits, boxes: `[A, K]` and `[A, 4]`, the outputs for the anchors.
    """

    features: Tensor
    anchors: Tensor
    logits: Tensor
    boxes: Tensor


@torch.no_grad()
def our_levels(model: Any, batch: Batch) -> list[Level]:
    """The levels of a detector with an RPN or a RetinaNet head, for one image."""
    maps = model.features(batch.images, batch.sizes)
    head = model.rpn if hasattr(model, "rpn") else model.head
    outputs = head(maps)
    boxes = decode(outputs.deltas, outputs.anchors, BOX_WEIGHTS)[0]
    logits = outputs.logits[0].reshape(len(boxes), -1)
    parts = zip(*(values.split(outputs.counts) for values in (outputs.anchors, logits, boxes)))
    return [Level(maps[name], *part) for name, part in zip(head.levels, parts, strict=True)]


def compare_levels(ours: Sequence[Level], theirs: Sequence[Level]) -> float:
    """The largest difference in all levels, relative to the standard deviation of the library's values.

    Unlike a comparison of detections, it covers the coarse levels, whose boxes are seldom among the 100 best. Libraries
    order the anchors of a cell differently, so anchors are paired by their positions.
    """
    found = []
    for our, their in zip(ours, theirs, strict=True):
        per_cell = len(our.anchors) // our.features[0, 0].numel()
        order = torch.cdist(their.anchors[:per_cell], our.anchors[:per_cell].to(their.anchors)).argmin(1)
        found.append(deviation(our.features, their.features))
        for mine, other in ((our.logits, their.logits), (our.boxes, their.boxes)):
            found.append(deviation(mine.unflatten(0, (-1, per_cell))[:, order].flatten(0, 1), other))
    return largest(found)


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference relative to the standard deviation of `theirs`; infinite for different shapes."""
    return float((ours - theirs).abs().max() / theirs.std()) if ours.shape == theirs.shape else torch.inf


def largest(numbers: Sequence[float]) -> float:
    """The largest number; NaN if one of them is NaN."""
    return float(torch.tensor(numbers, dtype=torch.float64).max())
