"""Semantic segmentation: targets and predictions with one class per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor

from chordate.errors import DataError
from chordate.structures.batch import Prediction, Sample, Targets
from chordate.structures.layout import Layout
from chordate.structures.metadata import DatasetMeta
from chordate.structures.statistics import Counts, Statistic, count_value
from chordate.text import pluralize

IGNORED = -1  # label of padding and of pixels without a class, which losses and metrics ignore
MOSTLY = 0.9  # a larger ignored fraction of an image may be an annotation error


@dataclass
class SemanticTargets(Targets):
    """Ground truth of semantic segmentation: the class of each pixel.

    Attributes:
        labels: `[N, H, W]` int16, 0 … classes-1; `IGNORED` for padding and pixels without a class.
    """

    labels: Annotated[Tensor, Layout("N", "H", "W", dtype=torch.int16)]

    legend: ClassVar[str] = "colors are classes; pixels without a tint are ignored"
    counted: ClassVar[str] = "pixels"

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> Self:
        """Collate the samples' `labels`, which are LabelMaps `[H, W]`: label + 1, or 0 for ignored pixels."""
        labels = torch.full((len(samples), *size), IGNORED, dtype=torch.int16)
        for sample, into in zip(samples, labels):
            own, image = sample["labels"].as_subclass(Tensor), sample["image"]
            if own.shape != image.shape[-2:]:
                raise DataError(
                    f"{sample['info'].path}: the label map has the size {list(own.shape)}, but the image has "
                    f"{list(image.shape[-2:])} (height, width); a transform of the pipeline resizes or crops only one "
                    f"of them; use transforms that change both"
                )
            into[: own.shape[0], : own.shape[1]] = own.short() - 1
        return cls(labels)

    def class_labels(self) -> Tensor:
        return self.labels

    def class_counts(self, classes: int) -> Tensor:
        return torch.bincount(self.labels[self.labels != IGNORED].long(), minlength=classes)

    def statistics(self, meta: DatasetMeta) -> dict[str, Statistic]:
        """The number of pixels with a class, and of classes in the image."""
        return label_statistics(self.labels)

    def suspicions(self, index: int) -> tuple[str, ...]:
        return label_suspicions(self.labels[index])

    def describe(self, index: int) -> str:
        present = self.labels[index].unique()
        return pluralize(int((present != IGNORED).sum()), "class")


def label_statistics(labels: Tensor) -> dict[str, Statistic]:
    """Count the pixels with a class, and the classes, in the labels of one image."""
    present, ignored = labels.unique(), int((labels == IGNORED).sum())
    return {
        "labeled pixels": Counts(("pixels",), {"with a class": (labels.numel() - ignored,), "ignored": (ignored,)}),
        "classes per image": count_value(int((present != IGNORED).sum())),
    }


def label_suspicions(labels: Tensor) -> tuple[str, ...]:
    """Possible annotation errors in the labels `[H, W]` of one image, as phrases, see `Targets.suspicions`."""
    ignored = float((labels == IGNORED).float().mean())
    if ignored == 1:
        return ("no labeled pixels",)
    return (f"over {MOSTLY:.0%} of the pixels ignored",) if ignored > MOSTLY else ()


@dataclass
class SemanticMap(Prediction):
    """Predicted class of each pixel of one image.

    Attributes:
        labels: `[H, W]` int16, with height and width of the original image.
    """

    labels: Annotated[Tensor, Layout("H", "W", dtype=torch.int16)]

    def fractions(self) -> list[tuple[int, float]]:
        """The labels that occur in the image, each with the fraction of pixels that it covers, largest first."""
        labels, counts = self.labels.unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)
        return [(int(labels[i]), float(counts[i]) / self.labels.numel()) for i in order]

    def describe(self) -> str:
        return pluralize(len(self.fractions()), "class")

    def to_records(self, meta: DatasetMeta) -> list[dict[str, Any]]:
        """One record with `classes`: a list of dicts with `class` and `fraction` (of the pixels), largest first."""
        return [{"classes": [{"class": meta.classes[i], "fraction": round(f, 4)} for i, f in self.fractions()]}]
