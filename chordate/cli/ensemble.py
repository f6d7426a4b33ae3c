"""Several models evaluated as one: their predictions for each image are averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from rich.console import RenderableType

from chordate.model_contracts import Metric
from chordate.structures import Batch, Prediction


class EnsembleMetric(Metric):
    """A metric around a metric: the members go over the same images in turn, then their means are measured.

    `compute` gives the numbers of the member whose predictions came last and ends its turn; `compute_mean` those of
    the ensemble, which the table describes then. Predictions of all members stay in memory, on the CPU.

    Args:
        metric: the metric of one model. Its kind of predictions must have a `mean`.
    """

    def __init__(self, metric: Metric):
        self.metric = metric
        self._batches: list[Batch] = []  # of the first member, without images
        self._predictions: dict[int, list[Prediction]] = defaultdict(list)  # by image id, one per member
        self._members = 0

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Pass the predictions on and keep them.

        Raises:
            ConfigError: such predictions cannot be averaged.
        """
        if not self._members:
            for prediction in predictions[:1]:
                type(prediction).mean([prediction])  # now, not after all models were evaluated
            self._batches.append(replace(batch, images=batch.images.new_empty(len(batch), 0)))
        for info, prediction in zip(batch.infos, predictions, strict=True):
            if len(self._predictions[info.image_id]) == self._members:  # an image may come twice
                self._predictions[info.image_id].append(prediction.to("cpu", non_blocking=False))
        self.metric.update(predictions, batch)

    def compute(self) -> dict[str, float]:
        """The numbers of the last member alone."""
        self._members += 1
        return self.metric.compute()

    def compute_mean(self) -> dict[str, float]:
        """The numbers of all members together."""
        for batch in self._batches:
            members = [self._predictions[info.image_id] for info in batch.infos]
            self.metric.update([type(one[0]).mean(one) for one in members], batch)
        return self.metric.compute()

    def table(self) -> RenderableType:
        return self.metric.table()
