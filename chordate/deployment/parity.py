"""Compares the predictions of an exported model with those of the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.deployment.exportable import Exportable
from chordate.deployment.formats import Function
from chordate.structures import Batch, ImageInfo


@dataclass
class Parity:
    """The differences between two lists of predictions.

    Attributes:
        differences: for each field that has the same shape in both predictions, the largest absolute difference; for
            integer and bool fields, the fraction of elements that differ.
        counts: total number of predicted objects of the model and of the file; None if predictions have no objects.
    """

    differences: dict[str, float]
    counts: tuple[int, int] | None

    def __str__(self) -> str:
        parts = [f"{name} {value:.2g}" for name, value in self.differences.items()]
        if self.counts is not None:
            parts.append(f"{self.counts[1]} of {self.counts[0]} objects")
        return ", ".join(parts)


def fit_images(images: Sequence[Tensor], size: tuple[int, int], padded: bool) -> Batch:
    """Resize images `[C, H, W]` uint8 for an exported model.

    Args:
        images: the images.
        size: height and width of the batch in pixels.
        padded: whether to keep the aspect ratio, and pad at the right and the bottom.
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
def compare(model: Exportable, run: Function, batch: Batch) -> Parity:
    """Compare the predictions of `Model.predict` with the outputs of an exported file, for one batch on the CPU."""
    expected = model.model.predict(batch)
    outputs = run(batch.images, batch.sizes) if model.model.exports_sizes else run(batch.images)
    predictions = model.model.from_tensors(outputs, batch)
    differences: dict[str, float] = {}
    has_objects = hasattr(expected[0], "__len__")
    for one, other in zip(expected, predictions, strict=True):
        for name, value in vars(one).items():
            output = getattr(other, name)
            if isinstance(value, Tensor) and value.shape == output.shape:
                differences[name] = max(differences.get(name, 0.0), difference(value, output))
    counts = (sum(map(len, expected)), sum(map(len, predictions))) if has_objects else None
    return Parity(differences, counts)


def difference(value: Tensor, other: Tensor) -> float:
    """The largest absolute difference of two tensors; for integers and bools, the fraction of elements that differ."""
    if not value.numel():
        return 0.0
    if value.is_floating_point():
        return float((value - other).abs().max())
    return float((value != other).double().mean())


def worst(parities: Sequence[Parity]) -> Parity:
    """The largest differences and the total counts of several comparisons."""
    differences: dict[str, float] = {}
    for name, value in (item for parity in parities for item in parity.differences.items()):
        differences[name] = max(differences.get(name, 0.0), value)
    counts = [parity.counts for parity in parities if parity.counts is not None]
    total = sum(count[0] for count in counts), sum(count[1] for count in counts)
    return Parity(differences, total if counts else None)
