"""Evaluates several models as an ensemble: averages their predictions for each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from rich.console import RenderableType

from chordate.model_contracts import Metric
from chordate.structures import Batch, Prediction


class EnsembleMetric(Metric):
    """Evaluates the members of an ensemble one after the other on the same images, then their mean predictions.

    `compute` returns the metrics of the latest member and starts the next member; `compute_mean` returns the metrics of
    the ensemble, which `table` then shows. Predictions of all members stay in CPU memory.

    Args:
        metric: the metric to compute, for predictions of a type that implements `mean`.
    """

    def __init__(self, metric: Metric):
        self.metric = metric
        self._batches: list[Batch] = []  # batches of the first member, without pixels
        # For each image id, one prediction per member.
        self._predictions: dict[int, list[Prediction]] = defaultdict(list)
        self._members = 0

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Update `metric`, and keep the predictions for `compute_mean`.

        Raises:
            ConfigError: predictions of this type cannot be averaged.
        """
        if not self._members:
            for prediction in predictions[:1]:
                type(prediction).mean([prediction])  # raise ConfigError now, not after all evaluations
            self._batches.append(replace(batch, images=batch.images.new_empty(len(batch), 0)))
        for info, prediction in zip(batch.infos, predictions, strict=True):
            # A sampler may repeat an image; only each member's first prediction of the image is kept.
            if len(self._predictions[info.image_id]) == self._members:
                self._predictions[info.image_id].append(prediction.to("cpu", non_blocking=False))
        self.metric.update(predictions, batch)

    def compute(self) -> dict[str, float]:
        """Compute the metrics of the latest member only."""
        self._members += 1
        return self.metric.compute()

    def compute_mean(self) -> dict[str, float]:
        """Compute the metrics of the averaged predictions."""
        for batch in self._batches:
            members = [self._predictions[info.image_id] for info in batch.infos]
            self.metric.update([type(one[0]).mean(one) for one in members], batch)
        return self.metric.compute()

    def table(self) -> RenderableType:
        return self.metric.table()
