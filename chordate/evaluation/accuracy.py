"""Top-1 and top-5 accuracy of a classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from chordate.distributed import all_gather_object
from chordate.errors import DataError
from chordate.model_contracts import Metric
from chordate.registry import METRICS
from chordate.structures import Batch, Classification, DatasetMeta
from chordate.text import pluralize, printable

TOP = 5  # number of top-scoring classes kept per image
MAX_ROWS = 40  # max classes in the table; if there are more, those with the lowest accuracy are shown


class WithClasses(Protocol):
    """The dataset attributes that the metric uses."""

    meta: DatasetMeta


@METRICS.register_module()
class AccuracyMetric(Metric):
    """Top-1 and top-5 accuracy: the fraction of images whose true class is the top-scoring one, or among the top five.

    Defined in Russakovsky et al. 2015, section 4.1. The true classes are read from the ClassTargets of the batches.

    Args:
        dataset: the dataset that is evaluated.
    """

    lower_is_better = ("error",)

    def __init__(self, dataset: WithClasses):
        self.dataset = dataset
        self._pending: list[NDArray[np.float64]] = []
        self._pending_files: list[str] = []
        # Per image: id, true label, top five predicted labels, their scores.
        self._rows: NDArray[np.float64] = np.empty((0, 2 + 2 * TOP))
        self._files: list[str] = []

    def update(self, predictions: Sequence[Classification], batch: Batch) -> None:
        """Keep the top five predicted classes and the true class of each image of a batch.

        Raises:
            DataError: the predictions are not Classifications, their number of classes is not the dataset's, or the
                batch has no targets.
        """
        for prediction in predictions:
            if not isinstance(prediction, Classification):
                raise DataError(
                    f"AccuracyMetric evaluates Classifications; the model predicts {type(prediction).__name__}"
                )
        if batch.targets is None:
            raise DataError(f"{batch.infos[0].path}: accuracy needs a true class, but the batch has no targets")
        classes = len(self.dataset.meta.classes)
        labels = batch.targets.labels.tolist()
        for info, label, prediction in zip(batch.infos, labels, predictions, strict=True):
            if len(prediction.scores) != classes:
                raise DataError(
                    f"the model has {pluralize(len(prediction.scores), 'class')}, but the dataset has {classes}"
                )
            best = prediction.top(TOP)
            best += [(-1, 0.0)] * (TOP - len(best))
            self._pending.append(np.array([info.image_id, label, *(b[0] for b in best), *(b[1] for b in best)]))
            self._pending_files.append(info.path)

    def compute(self) -> dict[str, float]:
        """Compute the metrics over the images of all ranks, each counted once. Clears the collected predictions.

        Returns:
            `top1`, `top5` and `error` (1 - top1), 0 … 1, equal on every rank.

        Raises:
            DataError: no image was evaluated.
        """
        own = np.stack(self._pending) if self._pending else self._rows[:0]
        gathered = all_gather_object((own, self._pending_files))
        self._pending, self._pending_files = [], []
        rows, files = np.concatenate([part for part, _ in gathered]), [file for _, part in gathered for file in part]
        if not len(rows):
            raise DataError("AccuracyMetric: no image was evaluated")
        first = np.unique(rows[:, 0], return_index=True)[1]
        self._rows, self._files = rows[first], [files[number] for number in first]
        hits = self._hits()
        top1, top5 = float(hits[:, 0].mean()), float(hits.any(axis=1).mean())
        self.numbers = {"top1": top1, "top5": top5, "error": 1 - top1}
        return self.numbers

    def _hits(self) -> NDArray[np.bool_]:
        """`[N, 5]` bool: for each image, which of its top five classes is the true class."""
        return self._rows[:, 2 : 2 + TOP] == self._rows[:, 1:2]

    def per_class(self) -> dict[str, dict[str, float]]:
        """For each class name, a dict with `top1`, `top5` (NaN without images) and `images` (the number of images)."""
        truth, hits = self._rows[:, 1], self._hits()
        numbers = {}
        for label, name in enumerate(self.dataset.meta.classes):
            own = hits[truth == label]
            top1, top5 = (own[:, 0].mean(), own.any(axis=1).mean()) if len(own) else (np.nan, np.nan)
            numbers[name] = {"top1": float(top1), "top5": float(top5), "images": len(own)}
        return numbers

    def table(self) -> Group:
        """A table with a row per class (at most 40, those with the lowest accuracy) and a row for all classes."""
        hits, rows = self._hits(), self.per_class()
        title = None
        if len(rows) > MAX_ROWS:
            present = [name for name, row in rows.items() if row["images"]]
            hardest = sorted(present, key=lambda name: (rows[name]["top1"], rows[name]["top5"]))[:MAX_ROWS]
            title = f"the {len(hardest)} hardest of {len(rows):,} classes"
            rows = {name: rows[name] for name in hardest}
        table = Table(box=box.SIMPLE_HEAD, show_footer=True, title=title)
        table.add_column("class", footer="all")
        table.add_column("top-1 / %", justify="right", footer=f"{100 * hits[:, 0].mean():.2f}")
        table.add_column("top-5 / %", justify="right", footer=f"{100 * hits.any(axis=1).mean():.2f}")
        table.add_column("images", justify="right", footer=f"{len(hits):,}")
        for name, row in rows.items():
            cells = [f"{100 * row[key]:.2f}" if row["images"] else "–" for key in ("top1", "top5")]
            table.add_row(Text(printable(name)), *cells, f"{row['images']:,}")
        return Group(table)

    def predictions(self) -> list[dict[str, Any]]:
        """For each image, a dict with `file`, the true `class`, and `classes`, the top five (`class` and `score`)."""
        names = self.dataset.meta.classes
        return [
            {
                "file": file,
                "class": names[int(row[1])],
                "classes": [
                    {"class": names[int(label)], "score": round(float(score), 5)}
                    for label, score in zip(row[2 : 2 + TOP], row[2 + TOP :])
                    if label >= 0
                ],
            }
            for file, row in zip(self._files, self._rows)
        ]

    def save_predictions(self, path: str | Path) -> None:
        """Write `predictions` as JSON."""
        Path(path).write_text(json.dumps(self.predictions()))
