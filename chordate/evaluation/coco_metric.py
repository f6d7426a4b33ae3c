"""COCO's AP of boxes, masks and keypoints: collects detections batch by batch, gathers over ranks, gives numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import hotcoco
import mmengine.dist
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group
from rich.table import Table

from chordate import checks
from chordate.errors import ConfigError, DataError, unknown
from chordate.evaluation.coco_backends import ENGINES, Task, hotcoco_judge
from chordate.evaluation.coco_report import describe
from chordate.evaluation.ground_truth import GroundTruth
from chordate.evaluation.packed_detections import Rows
from chordate.evaluation.pr_curves import Curves
from chordate.registry import METRICS
from chordate.structures import Batch, Detections

GIVEN_BY = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}  # what of Detections an IoU type measures
SIGMAS = hotcoco.Params("keypoints").kpt_oks_sigmas  # of a person's 17 keypoints (cocodataset.org/#keypoints-eval)
MOST_WITH_KEYPOINTS = 20  # detections of an image and class, as COCO has it


class Annotated(Protocol):
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
        iou_types: what overlap is measured on, of "bbox", "segm" and "keypoints". None is all that the model gives:
            boxes, and masks and keypoints if it has such; what the annotations lack is left out with a warning.
        engine: "hotcoco" (fast), or "pycocotools", the reference; both give the same numbers.
        max_dets: the best so many detections of an image and class count; three limits, ascending. AP is
            under the last one. Of keypoints always the best 20, as in COCO.
        keypoint_sigmas: how far off each keypoint may be, as a share of the object's size (half of κ in COCO's
            object keypoint similarity). None is COCO's for a person's 17 keypoints, and their mean for any others.

    Raises:
        ConfigError: an unknown engine or IoU type, or limits that are not three ascending numbers.
        DataError: the annotations have not what `iou_types` asks for.
    """

    def __init__(
        self,
        dataset: Annotated,
        iou_types: Sequence[str] | None = None,
        engine: str = "hotcoco",
        max_dets: Sequence[int] = (1, 10, 100),
        keypoint_sigmas: Sequence[float] | None = None,
    ):
        if iou_types is not None:
            wrong = [name for name in checks.listed("metric.iou_types", iou_types) if name not in GIVEN_BY]
            if wrong or not iou_types:
                raise ConfigError(f"CocoMetric: {unknown('iou_type', str(*wrong[:1]), GIVEN_BY)}")
        if engine not in ENGINES:
            raise ConfigError(f"CocoMetric: {unknown('engine', engine, ENGINES)}")
        for limit in checks.listed("metric.max_dets", max_dets):
            checks.number("metric.max_dets: each", limit, least=1, whole=True)
        if len(max_dets) != 3 or sorted({*max_dets}) != [*max_dets]:
            raise ConfigError(f"CocoMetric: max_dets is {max_dets!r}; give three ascending numbers, as (1, 10, 100)")
        for sigma in checks.listed("metric.keypoint_sigmas", keypoint_sigmas or []):
            checks.number("metric.keypoint_sigmas", sigma, above=0)
        self.dataset = dataset
        self.iou_types = iou_types
        self.max_dets = tuple(max_dets)
        self.keypoint_sigmas = keypoint_sigmas
        self._make_engine = ENGINES[engine]
        self._engine: Any = None  # made when needed: pycocotools' index takes its time
        self._pending: list[Rows] = []
        self._rows = Rows.join([])
        self._tasks: dict[str, Task] = {}
        self._curves: dict[str, Curves] = {}
        if "segm" in (iou_types or ()):
            self.truth.check_masks()
        if "keypoints" in (iou_types or ()) or keypoint_sigmas:
            self._sigmas()

    @cached_property
    def truth(self) -> GroundTruth:
        """The annotations, read when they are needed."""
        return GroundTruth.of(self.dataset.coco, self.dataset.category_ids)

    def process(self, batch: Batch, detections: list[Detections]) -> None:
        """Keep the detections of a batch, one `Detections` an image, in pixels of the original image.

        Raises:
            DataError: a label beyond the data set's classes, or not what `iou_types` asks for.
            TrainingError: boxes, scores or keypoints that are not finite.
        """
        rows = Rows.pack(batch.infos, detections, self.dataset.classes)
        self._judged(rows)
        self._pending.append(rows)

    def evaluate(self) -> dict[str, float]:
        """The numbers over all ranks, the same on every rank; what was processed is then put aside.

        Returns:
            `bbox_AP`, `bbox_AP50`, `bbox_AP75`, `bbox_APs`, `bbox_APm`, `bbox_APl`, `bbox_AR1`, `bbox_AR10`,
            `bbox_AR100`, `bbox_ARs`, `bbox_ARm`, `bbox_ARl`, 0 … 1; -1 where there is no ground truth. The same
            of `segm`; of `keypoints` AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm and ARl.

        Raises:
            DataError: detections of an image that is not in the data set, or masks or keypoints that the annotations
                have for some objects only.
        """
        self._rows = Rows.join(self._pending).gather()
        self._pending = []
        strange = np.setdiff1d(self._rows.image_ids, self.dataset.image_ids)
        if len(strange):
            raise DataError(f"CocoMetric: image {strange[0]} is not in the data set that the metric was made for")
        self._tasks = {iou_type: self._task(iou_type) for iou_type in self._judged(self._rows)}
        if mmengine.dist.is_main_process():
            self._curves = self._judge()
        shared = [self._curves]
        mmengine.dist.broadcast_object_list(shared)
        self._curves = shared[0]
        return {f"{kind}_{key}": value for kind, c in self._curves.items() for key, value in c.summary().items()}

    def _judged(self, rows: Rows) -> list[str]:
        """The IoU types to measure: those asked for, or what both the model and the annotations have.

        Raises:
            DataError: one of the two does not have what was asked for, or they do not fit together.
        """
        given = [iou_type for iou_type, name in GIVEN_BY.items() if getattr(rows, name) is not None]
        missing = [iou_type for iou_type in self.iou_types or () if iou_type not in given]
        if missing and len(rows.scores):
            name = GIVEN_BY[missing[0]]
            raise DataError(f'CocoMetric: the model gives no {name}; take "{missing[0]}" out of metric.iou_types')
        types = list(self.iou_types or [iou_type for iou_type in given if self._annotated(iou_type)])
        if "segm" in types:
            self.truth.check_masks()
        if "keypoints" in types and rows.keypoints is not None and rows.keypoints.shape[1] != len(self._sigmas()):
            raise DataError(
                f"CocoMetric: the model finds {rows.keypoints.shape[1]} keypoints, the annotations have "
                f"{len(self._sigmas())}"
            )
        return types

    def _annotated(self, iou_type: str) -> bool:
        """Whether any annotation has it."""
        if iou_type == "bbox":
            return True  # and no need to read them yet
        return bool(self.truth.outlined if iou_type == "segm" else self.truth.keypoints)

    def _task(self, iou_type: str) -> Task:
        ids = tuple(self.dataset.category_ids)
        if iou_type != "keypoints":
            return Task(iou_type, tuple(range(len(ids))), ids, self.max_dets)
        labels = tuple(label for label, category in enumerate(ids) if category in self.truth.keypoints)
        return Task(iou_type, labels, ids, (MOST_WITH_KEYPOINTS,), self._sigmas())

    def _sigmas(self) -> tuple[float, ...]:
        """One for each keypoint."""
        count = self.truth.count_keypoints()
        sigmas = self.keypoint_sigmas or (SIGMAS if count == len(SIGMAS) else [float(np.mean(SIGMAS))] * count)
        if len(sigmas) != count:
            raise ConfigError(f"metric.keypoint_sigmas has {len(sigmas)} numbers, the annotations {count} keypoints")
        return tuple(sigmas)

    def _judge(self) -> dict[str, Curves]:
        expected = self.dataset.image_ids
        unseen = len(expected) - len(self._rows.image_ids)
        if unseen:
            warnings.warn(
                f"CocoMetric: {unseen} of {len(expected)} images were not evaluated; their objects count as missed",
                stacklevel=3,
            )
        elif not self.truth.outlined + self.truth.bare:
            warnings.warn("CocoMetric: the annotations have no objects, so AP is not defined: -1", stacklevel=3)
        elif not len(self._rows.scores):
            warnings.warn("CocoMetric: the model found nothing in any image; AP is 0", stacklevel=3)
        for iou_type, given in GIVEN_BY.items():
            if getattr(self._rows, given) is not None and not self._annotated(iou_type):
                warnings.warn(f"CocoMetric: the annotations have no {given}; those found are not judged", stacklevel=3)
        self._engine = self._engine or self._make_engine(self.truth.coco)
        return {iou_type: self._engine(self._rows, task) for iou_type, task in self._tasks.items()}

    def per_class(self) -> dict[str, dict[str, dict[str, float]]]:
        """By IoU type and class name: `AP`, `AP50`, `AR` (-1 without ground truth) and `instances`, not crowds.

        Of keypoints only the classes that have some, and the instances where any is annotated.
        """
        found = {}
        for iou_type, curves in self._curves.items():
            task = self._tasks[iou_type]
            found[iou_type] = {
                self.dataset.classes[label]: {
                    "AP": curves.average_precision(category=place),
                    "AP50": curves.average_precision(iou=0.5, category=place),
                    "AR": curves.average_recall(category=place),
                    "instances": self._instances(task.category_ids[label], iou_type),
                }
                for place, label in enumerate(task.labels)
            }
        return found

    def _instances(self, category: int, iou_type: str) -> int:
        ids = self.dataset.coco.get_ann_ids(cat_ids=[category], iscrowd=False)
        if iou_type != "keypoints":
            return len(ids)
        return sum(any(a.get("keypoints", [])[2::3]) for a in self.dataset.coco.load_anns(ids))

    def table(self) -> Group:
        """The last evaluation for the terminal: COCO's numbers, then a row for each class."""
        parts = []
        for kind, classes in self.per_class().items():
            summary = self._curves[kind].summary()
            grid = Table.grid(padding=(0, 2))
            cells = [f"[dim]{key:<5}[/] {_shown(value):>5}" for key, value in summary.items()]
            grid.add_row(*cells[: len(cells) // 2])
            grid.add_row(*cells[len(cells) // 2 :])
            table = Table(box=box.SIMPLE_HEAD, show_footer=True)
            total = sum(int(numbers["instances"]) for numbers in classes.values())
            most = "AR" if kind == "keypoints" else f"AR{self.max_dets[-1]}"
            table.add_column(f"class ({kind})", footer="all")
            for key, footer in (("AP", summary["AP"]), ("AP50", summary["AP50"]), (most, summary[most])):
                table.add_column(key, justify="right", footer=_shown(footer))
            table.add_column("instances", justify="right", footer=f"{total:,}")
            for name, n in classes.items():
                table.add_row(name, *(_shown(n[key]) for key in ("AP", "AP50", "AR")), f"{int(n['instances']):,}")
            parts += [grid, table]
        return Group(*parts)

    def report(self) -> dict[str, Any]:
        """By IoU type what lies behind the last evaluation's numbers (see `report.describe`), and `per_class`."""
        classes = self.per_class()
        found = {}
        for iou_type, task in self._tasks.items():
            judge, own = hotcoco_judge(self.truth.coco, self._rows, task), classes[iou_type]
            found[iou_type] = {**describe(self._curves[iou_type], judge, list(own), iou_type), "per_class": own}
        return found

    def predictions(self) -> list[dict[str, Any]]:
        """The last evaluation's detections in COCO's results format, to 0.001 pixels and 0.00001 of score.

        Masks are compressed run lengths, keypoints counted in pixels as COCO does (a pixel's centre is a whole number).
        The numbers of `evaluate` come from full precision and may differ from those of the rounded ones.
        """
        given = [iou_type for iou_type, name in GIVEN_BY.items() if getattr(self._rows, name) is not None]
        return self._rows.results(self.dataset.category_ids, given, digits=3)

    def save_predictions(self, path: str | Path) -> None:
        """Write `predictions` as JSON that COCO's tools load with `loadRes`."""
        Path(path).write_text(json.dumps(self.predictions()))


def _shown(value: float) -> str:
    return f"{value:.3f}" if value > -1 else "–"
