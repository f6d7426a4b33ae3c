"""SemanticMetric: intersection over union, and accuracy, of a class per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from hotcoco import semantic
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from chordate.distributed import all_gather_object
from chordate.errors import DataError
from chordate.model_contracts import Metric
from chordate.registry import METRICS
from chordate.structures import Batch, DatasetMeta
from chordate.structures.semantic import IGNORED, SemanticMap
from chordate.text import printable


class WithLabels(Protocol):
    """The part of a dataset that the metric needs."""

    meta: DatasetMeta

    def labels_of(self, index: int) -> Tensor:
        """The labels `[H, W]` of an image at its original size, `IGNORED` where there is no class."""


@METRICS.register_module()
class SemanticMetric(Metric):
    """Mean intersection over union over all images, by hotcoco, at the original size of the images.

    Numbers, 0 … 1 (Long et al. 2015, section 5): `mIoU`, the mean of the classes; `fwIoU`, weighted by the classes'
    pixels; `mAcc`, the mean of the classes' accuracies; `aAcc`, the accuracy of all pixels. Classes that are neither in
    the ground truth nor predicted do not count; pixels without a class are left out.

    Args:
        dataset: the dataset of the predictions.
    """

    def __init__(self, dataset: WithLabels):
        self.dataset = dataset
        self.classes = len(dataset.meta.classes)
        self._pending = self._evaluator()
        self._last: dict[str, Any] = {}

    def _evaluator(self) -> semantic.SemanticEval:
        return semantic.SemanticEval(list(map(str, range(self.classes))), ignore_index=self.classes)

    def update(self, predictions: Sequence[SemanticMap], batch: Batch) -> None:
        """Count the pixels of a batch.

        Raises:
            DataError: the predictions are not SemanticMaps, or have other classes or another size than the dataset's.
        """
        for prediction, info in zip(predictions, batch.infos, strict=True):
            if not isinstance(prediction, SemanticMap):
                raise DataError(
                    f"SemanticMetric evaluates SemanticMaps; the model predicts {type(prediction).__name__}"
                )
            truth = self.dataset.labels_of(info.image_id)
            labels = prediction.labels.cpu().numpy()
            if labels.shape != tuple(truth.shape):
                raise DataError(
                    f"{info.path}: the prediction has {list(labels.shape)} pixels, the ground truth {list(truth.shape)}"
                )
            if labels.min() < 0 or labels.max() >= self.classes:
                raise DataError(
                    f"{info.path}: predicted labels go to {labels.max()}, the data has {self.classes} classes"
                )
            truth = truth.where(truth != IGNORED, self.classes)
            self._pending.update(truth.numpy().astype(np.uint16), labels.astype(np.uint16))

    def compute(self) -> dict[str, float]:
        """Compute the numbers over all ranks, the same on every rank, and forget the counted pixels.

        Raises:
            DataError: no pixel was evaluated.
        """
        total = self._evaluator()
        for part in all_gather_object(self._pending):
            total.merge(part)
        self._pending, self._last = self._evaluator(), total.results()
        if not self._last["n_pixels"]:
            raise DataError("SemanticMetric: no labeled pixel was evaluated")
        self.numbers = {name: float(self._last[name]) for name in ("mIoU", "fwIoU", "mAcc", "aAcc")}
        return dict(self.numbers)

    def per_class(self) -> dict[str, dict[str, float]]:
        """By class name: `IoU` and `Acc` (-1 where the class neither occurs nor is predicted), and `pixels`."""
        rows = zip(self.dataset.meta.classes, self._last["per_class"], strict=True)
        return {name: {"IoU": row["IoU"], "Acc": row["Acc"], "pixels": row["gt_area"]} for name, row in rows}

    def table(self) -> Table:
        """One row per class, and one for all classes."""
        pixels = sum(row["pixels"] for row in self.per_class().values())
        table = Table(box=box.SIMPLE_HEAD, show_footer=True)
        table.add_column("class", footer="mean")
        table.add_column("IoU / %", justify="right", footer=f"{100 * self.numbers['mIoU']:.2f}")
        table.add_column("accuracy / %", justify="right", footer=f"{100 * self.numbers['mAcc']:.2f}")
        table.add_column("of the pixels / %", justify="right", footer=f"{pixels / 1e6:,.1f} M pixels")
        for name, row in self.per_class().items():
            scores = [f"{100 * row[key]:.2f}" if row[key] >= 0 else "–" for key in ("IoU", "Acc")]
            table.add_row(Text(printable(name)), *scores, f"{100 * row['pixels'] / pixels:.2f}")
        return table
