"""Compares the predictions of an exported file with those of the model itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.deployment.formats import Function
from chordate.model_contracts import Model
from chordate.structures import Batch, Detections, ImageInfo, PanopticMap

TOLERANCE = 1e-3  # limit on differences of floats, and on the fraction of labels and mask pixels that differ
RELATIVE_TOLERANCE = 1e-5  # rtol of floats, as in torch.allclose: the limit is 0.01 pixels at x = 900
DERIVED = ("areas",)  # not compared, since they follow from a compared field: areas of a PanopticMap from `ids`
NO_OBJECTS = "the model detects no objects in the images; name others with --images"


@dataclass
class Parity:
    """The differences between the predictions of a model and of its exported file, over images.

    Attributes:
        differences: the largest difference of each field of the predictions, see `difference`.
        counts: for each image, the numbers of objects or segments predicted by the model and by the file; empty for
            tasks without them, such as classification. Images with different numbers are left out of `differences`.
        exceeding: the fields whose differences exceed the tolerance in any image.
    """

    differences: dict[str, float] = field(default_factory=dict)
    counts: list[tuple[int, int]] = field(default_factory=list)
    exceeding: set[str] = field(default_factory=set)

    @property
    def agrees(self) -> bool:
        """Whether all differences are within the tolerance, and the model and the file predict equally many objects in
        each image."""
        return not self.exceeding and all(ours == theirs for ours, theirs in self.counts)

    def __str__(self) -> str:
        parts = [f"{name} {value:.2g}" for name, value in self.differences.items()]
        if self.counts:
            ours, theirs = map(sum, zip(*self.counts))
            unequal = sum(one != other for one, other in self.counts)
            where = f" (different numbers in {unequal} of {len(self.counts)} images)" if unequal else ""
            parts.append(f"{theirs} of {ours} objects{where}" if ours or theirs else NO_OBJECTS)
        return ", ".join(parts)


def fit_images(images: Sequence[Tensor], size: tuple[int, int], padded: bool) -> Batch:
    """Resize images `[C, H, W]` uint8, and stack them into a batch for an exported model.

    Args:
        images: the images.
        size: height and width of the batch in pixels.
        padded: whether to keep the aspect ratio and pad at the right and the bottom, instead of stretching to `size`.
    """
    batch = torch.zeros(len(images), images[0].shape[0], *size, dtype=torch.uint8)
    sizes = []
    for image, into in zip(images, batch):
        scale = min(side / own for side, own in zip(size, image.shape[-2:]))
        height, width = (max(1, int(scale * side)) for side in image.shape[-2:]) if padded else size
        resized = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)[0]
        into[:, :height, :width] = resized.round().clamp(0, 255).to(torch.uint8)
        sizes.append((height, width))
    infos = [ImageInfo(number, f"image {number}", *own) for number, own in enumerate(sizes)]
    return Batch(batch, torch.tensor(sizes), infos)


@torch.no_grad()
def compare(model: Model, run: Function, batches: Sequence[Batch]) -> Parity:
    """Compare the predictions of `Model.predict` with the outputs of an exported file, on the CPU.

    Args:
        model: the model, in evaluation mode.
        run: the file as a function, from `ExportFormat.open`.
        batches: images whose size and number the file accepts.
    """
    parity = Parity()
    for batch in batches:
        outputs = run(batch.images, batch.sizes) if model.exports_sizes else run(batch.images)
        for ours, theirs in zip(model.predict(batch), model.from_tensors(outputs, batch), strict=True):
            if hasattr(ours, "__len__"):
                parity.counts.append((len(ours), len(theirs)))
                if len(ours) != len(theirs):
                    continue
            theirs = paired(ours, theirs)
            for name, value in vars(ours).items():
                if isinstance(value, Tensor) and value.numel() and name not in DERIVED:
                    amount, close = difference(value, getattr(theirs, name))
                    so_far = parity.differences.get(name, 0.0)
                    parity.differences[name] = max(so_far, amount, key=lambda one: (math.isnan(one), one))
                    if not close:
                        parity.exceeding.add(name)
    return parity


def paired(ours: Any, theirs: Any) -> Any:
    """Detections or segments `theirs` in the order of `ours`, since rounding may swap those with almost equal scores.

    Other predictions, and detections or segments that do not match one to one, are returned unchanged.
    """
    if isinstance(ours, PanopticMap) and ours.ids.shape == theirs.ids.shape:
        return _paired_segments(ours, theirs)
    if not isinstance(ours, Detections) or not len(ours):
        return theirs
    distance = (ours.boxes[:, None] - theirs.boxes).abs().amax(-1)
    order = distance.masked_fill(ours.labels[:, None] != theirs.labels, torch.inf).argmin(1)
    return theirs[order] if len(order.unique()) == len(order) else theirs


def _paired_segments(ours: PanopticMap, theirs: PanopticMap) -> PanopticMap:
    """Renumber the segments of `theirs`: each gets the number of the segment of `ours` that has most of its pixels."""
    count = len(ours)
    pixels = torch.bincount((theirs.ids.long() * (count + 1) + ours.ids.long()).flatten(), minlength=(count + 1) ** 2)
    numbers = pixels.view(count + 1, count + 1)[1:, 1:].argmax(1) if count else pixels.new_zeros(0)
    if len(numbers.unique()) < count:
        return theirs
    order = numbers.argsort()
    segments = {name: getattr(theirs, name)[order] for name in ("labels", "is_thing", "scores", "areas")}
    return replace(theirs, ids=F.pad(numbers + 1, (1, 0))[theirs.ids.long()].to(theirs.ids.dtype), **segments)


def difference(value: Tensor, other: Tensor | None) -> tuple[float, bool]:
    """The difference of two tensors, and whether it is within the tolerance.

    For floats, it is the largest absolute difference (NaN if a value is NaN); for integers, the fraction that differ;
    for bools, the fraction that differ among those that are True in either tensor. It is infinite if the shapes differ
    or `other` is None.
    """
    if other is None or value.shape != other.shape:
        return math.inf, False
    if value.is_floating_point():
        amount = (value - other).abs().masked_fill(value == other, 0)  # equal infinities differ by 0
        return float(amount.amax()), bool((amount <= TOLERANCE + RELATIVE_TOLERANCE * value.abs()).all())
    differing = int((value != other).sum())
    total = int((value | other).sum()) if value.dtype == torch.bool else value.numel()
    return differing / max(total, 1), differing <= TOLERANCE * total
