"""COCO's box AP: collects detections batch by batch, gathers over ranks, and gives the twelve numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import hotcoco
import mmengine.dist
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group
from rich.table import Table

from chordate.errors import ConfigError, DataError, unknown
from chordate.evaluation.curves import Curves
from chordate.evaluation.engines import ENGINES, with_boxes
from chordate.evaluation.rows import Rows, as_results
from chordate.registry import METRICS
from chordate.structures import Batch, Detections

IOU_TYPES = ("bbox",)


class GroundTruth(Protocol):
    """What the metric asks of a data set."""

    classes: tuple[str, ...]
    category_ids: list[int]  # of each label
    coco: hotcoco.COCO
    image_ids: NDArray[np.int64]


@METRICS.register_module()
class CocoMetric:
    """Average precision and recall as COCO defines them (Lin et al. 2014; cocodataset.org/#detection-eval).

    `process` every batch, then `evaluate`; after that `table`, `per_class` and `predictions` tell more about
    the same detections, until the next `evaluate`.

    Args:
        dataset: the data set that the detections are of. All its images count; objects of an image that was
            never processed are missed ones.
        iou_types: what overlap is measured on; boxes ("bbox").
        engine: "hotcoco" (fast), or "pycocotools", the reference; both give the same numbers.
        max_dets: the best so many detections of an image and class count; three limits, ascending. AP is
            under the last one.

    Raises:
        ConfigError: an unknown engine or IoU type, or limits that are not three ascending numbers.
    """

    def __init__(
        self,
        dataset: GroundTruth,
        iou_types: Sequence[str] = IOU_TYPES,
        engine: str = "hotcoco",
        max_dets: Sequence[int] = (1, 10, 100),
    ):
        wrong = [name for name in iou_types if name not in IOU_TYPES]
        if wrong or not iou_types:
            raise ConfigError(f"CocoMetric: {unknown('iou_type', str(*wrong[:1]), IOU_TYPES)}")
        if engine not in ENGINES:
            raise ConfigError(f"CocoMetric: {unknown('engine', engine, ENGINES)}")
        if len(max_dets) != 3 or sorted({*max_dets}) != [*max_dets] or max_dets[0] < 1:
            raise ConfigError(f"CocoMetric: max_dets is {max_dets!r}; give three ascending numbers, as (1, 10, 100)")
        self.dataset = dataset
        self.iou_types = tuple(iou_types)
        self.max_dets = tuple(max_dets)
        self._make_engine = ENGINES[engine]
        self._engine: Any = None  # made when needed: pycocotools' index takes its time
        self._pending: list[Rows] = []
        self._rows = Rows.join([])
        self._curves: dict[str, Curves] = {}

    def process(self, batch: Batch, detections: list[Detections]) -> None:
        """Keep the detections of a batch, one `Detections` an image, boxes in pixels of the original image.

        Raises:
            DataError: a label beyond the data set's classes.
            TrainingError: boxes or scores that are not finite.
        """
        self._pending.append(Rows.pack(batch.infos, detections, self.dataset.classes))

    def evaluate(self) -> dict[str, float]:
        """The numbers over all ranks, the same on every rank; what was processed is then put aside.

        Returns:
            `bbox_AP`, `bbox_AP50`, `bbox_AP75`, `bbox_APs`, `bbox_APm`, `bbox_APl`, `bbox_AR1`, `bbox_AR10`,
            `bbox_AR100`, `bbox_ARs`, `bbox_ARm`, `bbox_ARl`, 0 … 1; -1 where there is no ground truth.

        Raises:
            DataError: detections of an image that is not in the data set.
        """
        self._rows = Rows.join(self._pending).gather()
        self._pending = []
        strange = np.setdiff1d(self._rows.image_ids, self.dataset.image_ids)
        if len(strange):
            raise DataError(f"CocoMetric: image {strange[0]} is not in the data set that the metric was made for")
        if mmengine.dist.is_main_process():
            self._curves = self._judge()
        shared = [self._curves]
        mmengine.dist.broadcast_object_list(shared)
        self._curves = shared[0]
        return {f"{kind}_{key}": value for kind, c in self._curves.items() for key, value in c.summary().items()}

    def _judge(self) -> dict[str, Curves]:
        expected = self.dataset.image_ids
        unseen = len(expected) - len(self._rows.image_ids)
        if unseen:
            warnings.warn(
                f"CocoMetric: {unseen} of {len(expected)} images were not evaluated; their objects count as missed",
                stacklevel=3,
            )
        elif not len(self._rows.scores):
            warnings.warn("CocoMetric: the model found nothing in any image; AP is 0", stacklevel=3)
        columns = self._rows.columns(self.dataset.category_ids)
        self._engine = self._engine or self._make_engine(with_boxes(self.dataset.coco))
        return {kind: self._engine(columns, kind, self.dataset.category_ids, self.max_dets) for kind in self.iou_types}

    def per_class(self) -> dict[str, dict[str, dict[str, float]]]:
        """By IoU type and class name: `AP`, `AP50`, `AR` (-1 without ground truth) and `instances`, not crowds."""
        coco = self.dataset.coco
        return {
            kind: {
                name: {
                    "AP": curves.average_precision(category=label),
                    "AP50": curves.average_precision(iou=0.5, category=label),
                    "AR": curves.average_recall(category=label),
                    "instances": len(coco.get_ann_ids(cat_ids=[self.dataset.category_ids[label]], iscrowd=False)),
                }
                for label, name in enumerate(self.dataset.classes)
            }
            for kind, curves in self._curves.items()
        }

    def table(self) -> Group:
        """The last evaluation for the terminal: the twelve numbers, then a row for each class."""
        parts = []
        for kind, classes in self.per_class().items():
            summary = self._curves[kind].summary()
            grid = Table.grid(padding=(0, 2))
            cells = [f"[dim]{key:<5}[/] {_shown(value):>5}" for key, value in summary.items()]
            grid.add_row(*cells[:6])
            grid.add_row(*cells[6:])
            table = Table(box=box.SIMPLE_HEAD, show_footer=True)
            total = sum(int(numbers["instances"]) for numbers in classes.values())
            most = f"AR{self.max_dets[-1]}"
            table.add_column(f"class ({kind})", footer="all")
            for key, footer in (("AP", summary["AP"]), ("AP50", summary["AP50"]), (most, summary[most])):
                table.add_column(key, justify="right", footer=_shown(footer))
            table.add_column("instances", justify="right", footer=f"{total:,}")
            for name, n in classes.items():
                table.add_row(name, *(_shown(n[key]) for key in ("AP", "AP50", "AR")), f"{int(n['instances']):,}")
            parts += [grid, table]
        return Group(*parts)

    def predictions(self) -> list[dict[str, Any]]:
        """The last evaluation's detections in COCO's results format, to 0.001 pixels and 0.00001 of score.

        The numbers of `evaluate` come from full precision and may differ from those of the rounded ones.
        """
        columns = self._rows.columns(self.dataset.category_ids)
        columns[:, 1:5] = columns[:, 1:5].round(3)
        columns[:, 5] = columns[:, 5].round(5)
        return as_results(columns)

    def save_predictions(self, path: str | Path) -> None:
        """Write `predictions` as JSON that COCO's tools load with `loadRes`."""
        Path(path).write_text(json.dumps(self.predictions()))


def _shown(value: float) -> str:
    return f"{value:.3f}" if value > -1 else "–"
