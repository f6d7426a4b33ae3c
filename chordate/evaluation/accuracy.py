"""Top-1 and top-5 accuracy of a classifier, gathered over ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmengine.dist
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group
from rich.table import Table

from chordate.errors import DataError
from chordate.registry import METRICS
from chordate.structures import Batch, Classification

KEPT = 5  # classes that are kept of each image, best first
LISTED = 40  # classes in the table; of more, those with the lowest accuracy


@METRICS.register_module()
class AccuracyMetric:
    """How often the true class is the best, and among the best five (Russakovsky et al. 2015, section 4.1).

    `process` every batch, then `evaluate`; after that `table` and `predictions` tell more about the same images, until
    the next `evaluate`.

    Args:
        dataset: has `classes`, `labels` and `files`; an image's number in it is its `image_id`.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self._pending: list[NDArray[np.float64]] = []
        self._rows: NDArray[np.float64] = np.empty((0, 1 + 2 * KEPT))

    def process(self, batch: Batch, found: Sequence[Classification]) -> None:
        """Keep the best classes of each image of a batch.

        Raises:
            DataError: the model does not classify, or has other classes than the data set.
        """
        if not all(isinstance(one, Classification) for one in found):
            raise DataError("AccuracyMetric measures classifiers; a detector's metric is CocoMetric")
        classes = len(self.dataset.classes)
        for info, one in zip(batch.infos, found, strict=True):
            if len(one.scores) != classes:
                raise DataError(f"the model has {len(one.scores)} classes, the data set {classes}")
            best = one.top(KEPT)
            best += [(-1, 0.0)] * (KEPT - len(best))
            self._pending.append(np.array([info.image_id, *(b[0] for b in best), *(b[1] for b in best)]))

    def evaluate(self) -> dict[str, float]:
        """The numbers over all ranks, the same on every rank; what was processed is then put aside.

        Returns:
            `top1`, `top5` and `error` (1 - top1), shares of the images, 0 … 1.

        Raises:
            DataError: there was no image.
        """
        own = np.stack(self._pending) if self._pending else self._rows[:0]
        gathered = np.concatenate(mmengine.dist.all_gather_object(own))
        self._pending = []
        if not len(gathered):
            raise DataError("AccuracyMetric: no image was evaluated")
        self._rows = gathered[np.unique(gathered[:, 0], return_index=True)[1]]  # each image once
        hits = self._hits()
        top1, top5 = float(hits[:, 0].mean()), float(hits.any(axis=1).mean())
        return {"top1": top1, "top5": top5, "error": 1 - top1}

    def _truth(self) -> NDArray[np.int64]:
        return self.dataset.labels[self._rows[:, 0].astype(np.int64)]

    def _hits(self) -> NDArray[np.bool_]:
        """`[images, 5]`: whether each of the best five is the true class."""
        return self._rows[:, 1 : 1 + KEPT] == self._truth()[:, None]

    def per_class(self) -> dict[str, dict[str, float]]:
        """By class name: `top1`, `top5` (NaN without images) and `images`."""
        truth, hits = self._truth(), self._hits()
        found = {}
        for label, name in enumerate(self.dataset.classes):
            own = hits[truth == label]
            top1, top5 = (own[:, 0].mean(), own.any(axis=1).mean()) if len(own) else (np.nan, np.nan)
            found[name] = {"top1": float(top1), "top5": float(top5), "images": len(own)}
        return found

    def table(self) -> Group:
        """The last evaluation for the terminal: a row for each class, or for the hardest of many, and all."""
        hits, rows = self._hits(), self.per_class()
        title = None
        if len(rows) > LISTED:
            seen = [name for name, row in rows.items() if row["images"]]
            hardest = sorted(seen, key=lambda name: (rows[name]["top1"], rows[name]["top5"]))[:LISTED]
            title = f"the {len(hardest)} hardest of {len(rows):,} classes"
            rows = {name: rows[name] for name in hardest}
        table = Table(box=box.SIMPLE_HEAD, show_footer=True, title=title)
        table.add_column("class", footer="all")
        table.add_column("top-1 / %", justify="right", footer=f"{100 * hits[:, 0].mean():.2f}")
        table.add_column("top-5 / %", justify="right", footer=f"{100 * hits.any(axis=1).mean():.2f}")
        table.add_column("images", justify="right", footer=f"{len(hits):,}")
        for name, row in rows.items():
            shown = [f"{100 * row[key]:.2f}" if row["images"] else "–" for key in ("top1", "top5")]
            table.add_row(name, *shown, f"{row['images']:,}")
        return Group(table)

    def predictions(self) -> list[dict[str, Any]]:
        """The last evaluation's best classes of each image, with its file and true class."""
        names = self.dataset.classes
        return [
            {
                "file": str(self.dataset.files[int(row[0])]),
                "class": names[truth],
                "found": [
                    {"class": names[int(label)], "score": round(float(score), 5)}
                    for label, score in zip(row[1 : 1 + KEPT], row[1 + KEPT :])
                    if label >= 0
                ],
            }
            for row, truth in zip(self._rows, self._truth())
        ]

    def save_predictions(self, path: str | Path) -> None:
        """Write `predictions` as JSON."""
        Path(path).write_text(json.dumps(self.predictions()))
