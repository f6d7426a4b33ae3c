"""COCO's average precision and recall of boxes, masks and keypoints."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import hotcoco
import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from chordate.arguments import Ascending, NonEmpty, PositiveFloat, PositiveInt
from chordate.distributed import broadcast_object, is_main_process
from chordate.errors import ConfigError, DataError
from chordate.evaluation.coco_backends import BACKENDS, Backend, BackendName, EvalSpec, hotcoco_evaluator
from chordate.evaluation.coco_report import CocoReport, describe_curves
from chordate.evaluation.ground_truth import CocoAnnotated, GroundTruth, check_annotated
from chordate.evaluation.packed_detections import MEASURED_ON, IouType, PackedDetections
from chordate.evaluation.pr_curves import PRCurves
from chordate.evaluation.result_ids import with_file_ids
from chordate.model_contracts import Metric, Model
from chordate.registry import METRICS
from chordate.structures import Batch, Detections
from chordate.text import printable

PERSON_SIGMAS = tuple(hotcoco.Params("keypoints").kpt_oks_sigmas)  # 17 keypoints, cocodataset.org/#keypoints-eval
log = logging.getLogger("chordate")
MAX_KEYPOINT_DETECTIONS = 20  # detections per image and class, as in COCO


@METRICS.register_module()
class CocoMetric(Metric):
    """Average precision and recall as COCO defines them (Lin et al. 2014; cocodataset.org/#detection-eval).

    Args:
        dataset: the dataset that is evaluated. All its images count; objects of an image that was never passed to
            `update` count as missed.
        iou_types: the types to evaluate: "bbox", "segm", "keypoints". None for every type that the model predicts
            (boxes, and masks or keypoints, if any); types that the annotations lack are skipped with a warning.
        engine: "hotcoco" (fast), or "pycocotools" (the reference implementation); both compute equal metrics.
        max_dets: three ascending limits on the number of top-scoring detections per image and class. AP uses the last
            limit. For keypoints, the limit is always 20, as in COCO.
        keypoint_sigmas: for each keypoint, the annotators' standard deviation relative to the object's size (half of κ
            in COCO's object keypoint similarity). None uses COCO's sigmas for 17 keypoints (a person's),
            and the mean of these sigmas for any other number of keypoints.

    Raises:
        ConfigError: the number of sigmas differs from the number of keypoints.
        DataError: the dataset is not `CocoAnnotated`; `iou_types` has "segm", but an annotation has no mask; or
            keypoints are requested, but no category has keypoints, or categories have different numbers of them.
    """

    def __init__(
        self,
        dataset: CocoAnnotated,
        iou_types: Annotated[Sequence[IouType], NonEmpty] | None = None,
        engine: BackendName = "hotcoco",
        max_dets: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Ascending] = (1, 10, 100),
        keypoint_sigmas: Sequence[PositiveFloat] | None = None,
    ):
        check_annotated(dataset, "CocoMetric")
        self.dataset = dataset
        self.requested_types = list(iou_types or ())
        self.max_dets = tuple(max_dets)
        self.keypoint_sigmas = keypoint_sigmas
        self._engine = engine
        self._limit_logged = False  # whether the warning that `max_dets` is too low was logged
        self._pending: list[PackedDetections] = []
        self._detections = PackedDetections.concatenate([])
        self._specs: dict[IouType, EvalSpec] = {}
        self._curves: dict[IouType, PRCurves] = {}
        if "segm" in self.requested_types:
            self.truth.check_masks()
        if "keypoints" in self.requested_types or keypoint_sigmas:
            self._sigmas()

    @cached_property
    def truth(self) -> GroundTruth:
        """The ground truth, read when it is first needed."""
        return GroundTruth.from_index(self.dataset.coco, self.dataset.category_ids)

    @cached_property
    def _backend(self) -> Backend:
        """The backend. Built on first use, and only on rank 0, because pycocotools is slow to build."""
        return BACKENDS[self._engine](self.truth.coco)

    def check_model(self, model: Model) -> None:
        """Warn if images have more objects than the model can detect."""
        limit = model.detections_per_image
        if limit is not None and is_main_process() and self.truth.most_per_image > limit:
            log.warning(
                f"CocoMetric: an image has {self.truth.most_per_image} objects, but the model returns at most {limit} "
                f"detections per image, so the other objects count as missed; raise detections_per_image of its head"
            )

    def update(self, predictions: Sequence[Detections], batch: Batch) -> None:
        """Keep the detections of a batch, in pixels of the original images.

        Raises:
            DataError: the predictions are not Detections, or their labels, masks or keypoints do not fit the dataset or
                `iou_types`.
            TrainingError: boxes, scores or keypoints are non-finite.
        """
        for prediction in predictions:
            if not isinstance(prediction, Detections):
                raise DataError(f"CocoMetric evaluates Detections; the model predicts {type(prediction).__name__}")
        packed = PackedDetections.pack(batch.infos, predictions, len(self.dataset.meta.classes))
        self._select_types(packed)
        self._pending.append(packed)

    def compute(self) -> dict[str, float]:
        """Compute COCO's metrics over the detections of all ranks. Clears the collected detections.

        Returns:
            `bbox_AP`, `bbox_AP50`, `bbox_AP75`, `bbox_APs`, `bbox_APm`, `bbox_APl`, `bbox_AR1`, `bbox_AR10`,
            `bbox_AR100`, `bbox_ARs`, `bbox_ARm`, `bbox_ARl`, 0 … 1; -1 without ground truth. The same for `segm_…`;
            `keypoints_…` has AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm and ARl. The numbers in AR1, AR10 and AR100
            are `max_dets`. All values are equal on every rank.

        Raises:
            DataError: detections belong to an image that is not in the dataset; masks are evaluated, but an annotation
                has none; or keypoints are evaluated, but their number differs from the annotations'.
        """
        self._detections = self.gather(self._pending)
        self._pending = []
        foreign = np.setdiff1d(self._detections.image_ids, self.dataset.image_ids)
        if len(foreign):
            raise DataError(
                f"CocoMetric: image {foreign[0]} has predictions, but is not in the metric's dataset; for crops of a "
                "CocoPoseDataset, use PoseMetric"
            )
        self._specs = {iou_type: self._spec(iou_type) for iou_type in self._select_types(self._detections)}
        if is_main_process():
            self._warn()
            self._curves = {iou_type: self._backend(self._detections, spec) for iou_type, spec in self._specs.items()}
        self._curves = broadcast_object(self._curves)
        self.numbers = {
            f"{iou_type}_{name}": value
            for iou_type, curves in self._curves.items()
            for name, value in curves.summary().items()
        }
        return self.numbers

    def gather(self, batches: Sequence[PackedDetections]) -> PackedDetections:
        """The detections of this rank's batches and of all other ranks, one entry per image."""
        return PackedDetections.concatenate(batches).gather()

    def _select_types(self, detections: PackedDetections) -> list[IouType]:
        """The IoU types to evaluate: the requested types, or by default all that are both predicted and annotated.

        Raises:
            DataError: the model or the annotations lack the masks or keypoints of a requested type, masks are evaluated
                but an annotation has none, or the model and the annotations have different numbers of keypoints.
        """
        predicted = detections.iou_types()
        missing = [iou_type for iou_type in self.requested_types if iou_type not in predicted]
        if missing and len(detections.scores):
            name = MEASURED_ON[missing[0]]
            raise DataError(f'CocoMetric: the model predicts no {name}; remove "{missing[0]}" from metric.iou_types')
        types = self.requested_types or [iou_type for iou_type in predicted if self._is_annotated(iou_type)]
        if "segm" in types:
            self.truth.check_masks()
        keypoints = detections.keypoints
        if "keypoints" in types and keypoints is not None and keypoints.shape[1] != len(self._sigmas()):
            raise DataError(
                f"CocoMetric: the model predicts {keypoints.shape[1]} keypoints, but the annotations have "
                f"{len(self._sigmas())}"
            )
        return types

    def _is_annotated(self, iou_type: IouType) -> bool:
        """Whether the annotations have what `iou_type` compares: boxes, masks (at least one) or keypoints."""
        if iou_type == "bbox":
            return True  # missing boxes are filled in, so the annotations need not be read
        return bool(self.truth.with_masks if iou_type == "segm" else self.truth.keypoints)

    def _spec(self, iou_type: IouType) -> EvalSpec:
        ids = tuple(self.dataset.category_ids)
        if iou_type != "keypoints":
            return EvalSpec(iou_type, tuple(range(len(ids))), ids, self.max_dets)
        labels = tuple(label for label, category in enumerate(ids) if category in self.truth.keypoints)
        return EvalSpec(iou_type, labels, ids, (MAX_KEYPOINT_DETECTIONS,), self._sigmas())

    def _sigmas(self) -> tuple[float, ...]:
        """The OKS sigma of each keypoint."""
        count = self.truth.count_keypoints()
        mean = float(np.mean(PERSON_SIGMAS))
        sigmas = self.keypoint_sigmas or (PERSON_SIGMAS if count == len(PERSON_SIGMAS) else (mean,) * count)
        if len(sigmas) != count:
            raise ConfigError(
                f"metric.keypoint_sigmas has {len(sigmas)} numbers, but the annotations have {count} keypoints; "
                "set one number per keypoint"
            )
        return tuple(sigmas)

    def _warn(self) -> None:
        """Warn if the metrics of `compute` are incomplete or undefined."""
        expected = self.dataset.image_ids
        missing = len(expected) - len(self._detections.image_ids)
        if missing:
            text = f"{missing} of {len(expected)} images were not evaluated; their objects count as missed"
            warnings.warn(f"CocoMetric: {text}", stacklevel=3)
        elif not self.truth.with_masks + self.truth.without_masks:
            warnings.warn("CocoMetric: the annotations have no objects, so AP is undefined (-1)", stacklevel=3)
        elif not len(self._detections.scores):
            warnings.warn("CocoMetric: the model has no detections in any image; AP is 0", stacklevel=3)
        most, limit = (self.truth.most_per_class, self._detections.most_per_class()), self.max_dets[-1]
        if max(most) > limit and set(self._specs) - {"keypoints"} and not self._limit_logged:
            self._limit_logged = True
            text = (
                f"images have up to {most[0]} objects and {most[1]} detections of a class, but only {limit} detections"
            )
            log.warning(f"CocoMetric: {text} are evaluated (metric.max_dets)")
        for iou_type in self._detections.iou_types():
            if not self._is_annotated(iou_type):
                name = MEASURED_ON[iou_type]
                text = f"CocoMetric: {name} are not evaluated, because the annotations have none"
                warnings.warn(text, stacklevel=3)

    def per_class(self) -> dict[IouType, dict[str, dict[str, float]]]:
        """For each IoU type and class name, `AP`, `AP50`, `AR` (-1 without ground truth) and the number of `instances`.

        Crowds are not counted. For keypoints, only classes with keypoints are listed, and only instances with a labeled
        keypoint are counted.
        """
        return {
            iou_type: {
                self.dataset.meta.classes[label]: {
                    "AP": curves.average_precision(category=row),
                    "AP50": curves.average_precision(iou=0.5, category=row),
                    "AR": curves.average_recall(category=row),
                    "instances": self._count_instances(self.dataset.category_ids[label], iou_type),
                }
                for row, label in enumerate(self._specs[iou_type].labels)
            }
            for iou_type, curves in self._curves.items()
        }

    def _count_instances(self, category: int, iou_type: IouType) -> int:
        ids = self.dataset.coco.get_ann_ids(cat_ids=[category], iscrowd=False)
        if iou_type != "keypoints":
            return len(ids)
        return sum(any(a.get("keypoints", [])[2::3]) for a in self.dataset.coco.load_anns(ids))

    def table(self) -> Group:
        """For each IoU type, COCO's summary metrics (AP, AP50, …) and a table with a row per class."""
        parts = []
        for iou_type, classes in self.per_class().items():
            summary = self._curves[iou_type].summary()
            grid = Table.grid(padding=(0, 2))
            cells = [f"[dim]{key:<5}[/] {_format(value):>5}" for key, value in summary.items()]
            grid.add_row(*cells[: len(cells) // 2])
            grid.add_row(*cells[len(cells) // 2 :])
            table = Table(box=box.SIMPLE_HEAD, show_footer=True)
            total = sum(int(numbers["instances"]) for numbers in classes.values())
            recall = "AR" if iou_type == "keypoints" else f"AR{self.max_dets[-1]}"
            table.add_column(f"class ({iou_type})", footer="all")
            for key, footer in (("AP", summary["AP"]), ("AP50", summary["AP50"]), (recall, summary[recall])):
                table.add_column(key, justify="right", footer=_format(footer))
            table.add_column("instances", justify="right", footer=f"{total:,}")
            for name, n in classes.items():
                cells = [_format(n[key]) for key in ("AP", "AP50", "AR")]
                table.add_row(Text(printable(name)), *cells, f"{int(n['instances']):,}")
            parts += [grid, table]
        return Group(*parts)

    def report(self) -> CocoReport:
        """Precision-recall curves, confusion matrix and TIDE errors for the last `compute`."""
        classes = self.per_class()
        parts = {}
        for iou_type, spec in self._specs.items():
            evaluator = hotcoco_evaluator(self.truth.coco, self._detections, spec)
            parts[iou_type] = describe_curves(self._curves[iou_type], evaluator, classes[iou_type], iou_type)
        return CocoReport(parts)

    def predictions(self) -> list[dict[str, Any]]:
        """The detections of the last `compute` in COCO's results format.

        Coordinates are rounded to 0.001 pixels and scores to 0.00001. Image and category ids are those of the
        annotation file, even if the dataset has renumbered them because some are text, negative or too large;
        `file_name` is added. Masks are compressed RLE; keypoint coordinates are relative to the center of the first
        pixel, as in COCO. `compute` uses full precision, so its metrics may differ slightly from metrics of these
        rounded results.
        """
        results = self._detections.to_results(self.dataset.category_ids, self._detections.iou_types(), digits=3)
        return with_file_ids(results, self.dataset.coco)

    def save_predictions(self, path: str | Path) -> None:
        """Write `predictions` as JSON that COCO's tools load with `loadRes`."""
        Path(path).write_text(json.dumps(self.predictions()))


def _format(value: float) -> str:
    return f"{value:.3f}" if value > -1 else "–"
