"""Semantic segmentation: a class per pixel."""

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

IGNORED = -1  # the label of pixels without a class, and of padding: no loss, no evaluation


@dataclass
class SemanticTargets(Targets):
    """The class of each pixel of a batch.

    Attributes:
        labels: `[N, H, W]` int16, `IGNORED` where there is no class and in the padding.
    """

    labels: Annotated[Tensor, Layout("N", "H", "W", dtype=torch.int16)]

    legend: ClassVar[str] = "Colors are classes; pixels without a tint are ignored."

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> Self:
        """Collate the samples' `labels`, LabelMaps of label + 1 with 0 for ignored pixels."""
        labels = torch.full((len(samples), *size), IGNORED, dtype=torch.int16)
        for sample, into in zip(samples, labels):
            own, image = sample["labels"].as_subclass(Tensor), sample["image"]
            if own.shape != image.shape[-2:]:
                raise DataError(
                    f"{sample['info'].path}: the labels are {list(own.shape)} px, the image {list(image.shape[-2:])}; "
                    f"a transform of the pipeline changes only one of them"
                )
            into[: own.shape[0], : own.shape[1]] = own.short() - 1
        return cls(labels)

    def describe(self, index: int) -> str:
        present = self.labels[index].unique()
        return f"{int((present != IGNORED).sum())} classes"


@dataclass
class SemanticMap(Prediction):
    """The class of each pixel of one image.

    Attributes:
        labels: `[H, W]` int16, at the size of the original image.
    """

    labels: Annotated[Tensor, Layout("H", "W", dtype=torch.int16)]

    def fractions(self) -> list[tuple[int, float]]:
        """The labels that occur, with the fraction of the pixels that they cover, largest first."""
        labels, counts = self.labels.unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)
        return [(int(labels[i]), float(counts[i]) / self.labels.numel()) for i in order]

    def describe(self) -> str:
        return f"{len(self.fractions())} classes"

    def to_records(self, meta: DatasetMeta) -> list[dict[str, Any]]:
        """One record: `classes`, each with `class` and the `fraction` of the pixels that it covers, largest first."""
        return [{"classes": [{"class": meta.classes[i], "fraction": round(f, 4)} for i, f in self.fractions()]}]
