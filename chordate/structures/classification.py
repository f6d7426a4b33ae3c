"""Image classification: targets and predictions with one class per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor

from chordate.errors import DataError
from chordate.structures.batch import Prediction, Sample, Targets
from chordate.structures.layout import Layout
from chordate.structures.metadata import DatasetMeta


@dataclass
class ClassTargets(Targets):
    """Ground truth of image classification: one class per image.

    Attributes:
        labels: `[N]` int64, 0 … classes-1; after MixUp or CutMix, soft targets `[N, classes]`, each row summing to 1.
    """

    labels: Annotated[Tensor, Layout("N", dtype=torch.int64)]

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> Self:
        """Collate the samples' `label`. Raises DataError if the images differ in size (padding is not supported)."""
        shapes = torch.tensor([sample["image"].shape[-2:] for sample in samples])
        if (shapes != shapes[0]).any():
            raise DataError(
                f"images of a batch must have equal sizes, got {shapes.amin(0).tolist()} to {shapes.amax(0).tolist()} "
                f"(height, width); end the pipeline with RandomResizedCrop, CenterCrop or Resize to a fixed height and "
                f"width, or set batch_size=1"
            )
        return cls(torch.tensor([sample["label"] for sample in samples]))

    def image_labels(self) -> Tensor:
        return self.labels

    def class_labels(self) -> Tensor | None:
        return None if self.labels.is_floating_point() else self.labels  # soft targets have no indices


@dataclass
class Classification(Prediction):
    """Class scores of one image.

    Attributes:
        scores: `[classes]` probabilities, 0 … 1. They sum to 1 after a softmax, but not if the model was trained with
            binary losses (sigmoid).
    """

    scores: Tensor

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The `count` highest-scoring labels with their probabilities, in descending order of probability."""
        scores, labels = self.scores.topk(min(count, len(self.scores)))
        return list(zip(labels.tolist(), scores.tolist()))

    @classmethod
    def mean(cls, predictions: Sequence[Self]) -> Self:
        """Average the scores of several models (Krizhevsky et al. 2012, section 6), in float64 on the CPU."""
        return cls(torch.stack([prediction.scores.double().cpu() for prediction in predictions]).mean(dim=0))

    def to_records(self, meta: DatasetMeta) -> list[dict[str, Any]]:
        """One record with `classes`, the five top-scoring classes as dicts with `class` and `score`."""
        return [{"classes": [{"class": meta.classes[label], "score": round(s, 4)} for label, s in self.top(5)]}]
