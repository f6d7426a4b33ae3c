"""Several classifiers as one: their probabilities averaged (Krizhevsky et al. 2012, section 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chordate.errors import ConfigError
from chordate.structures import Batch, Classification, ImageInfo


class Ensemble:
    """A metric around a metric: each model goes over the same images in turn, then all are evaluated together.

    Args:
        metric: of classifiers, such as AccuracyMetric.
    """

    def __init__(self, metric: Any):
        self.metric = metric
        self._infos: dict[int, ImageInfo] = {}
        self._sums: dict[int, Tensor] = {}
        self._members = 0

    def process(self, batch: Batch, found: Sequence[Any]) -> None:
        """Take in what one model says of a batch.

        Raises:
            ConfigError: the model does not classify.
        """
        for info, one in zip(batch.infos, found, strict=True):
            if not isinstance(one, Classification):
                raise ConfigError("an ensemble is of classifiers; test detectors one at a time")
            scores = one.scores.double().cpu()
            self._infos[info.image_id] = info
            self._sums[info.image_id] = self._sums[info.image_id] + scores if self._members else scores
        self.metric.process(batch, found)

    def evaluate(self) -> dict[str, float]:
        """The numbers of the model that was processed last, alone; the next one's images come after it."""
        self._members += 1
        return self.metric.evaluate()

    def evaluate_together(self) -> dict[str, float]:
        """The numbers of all models together, which the metric's tables then tell of."""
        infos = list(self._infos.values())
        found = [Classification(self._sums[info.image_id] / self._members) for info in infos]
        self.metric.process(Batch(torch.empty(len(infos), 0), torch.empty(len(infos), 0), infos), found)
        return self.metric.evaluate()
