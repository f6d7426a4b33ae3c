"""Two backends that compute COCO's evaluation: hotcoco, and pycocotools as the reference."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import hotcoco
import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from chordate.data.file_ids import MAX_ID
from chordate.evaluation.packed_detections import IouType, PackedDetections
from chordate.evaluation.pr_curves import PRCurves


@dataclass(frozen=True)
class EvalSpec:
    """COCO's parameters of an evaluation for one IoU type.

    Attributes:
        iou_type: "bbox", "segm" or "keypoints".
        labels: labels of the classes to evaluate.
        category_ids: COCO's category id of every label.
        max_dets: limits on the detections per image and class, ascending.
        sigmas: the OKS sigma of each keypoint, for IoU type "keypoints", else None.
    """

    iou_type: IouType
    labels: tuple[int, ...]
    category_ids: tuple[int, ...]
    max_dets: tuple[int, ...]
    sigmas: tuple[float, ...] | None = None

    @property
    def evaluated_ids(self) -> list[int]:
        """The category ids of `labels`."""
        return [self.category_ids[label] for label in self.labels]


def hotcoco_evaluator(coco: hotcoco.COCO, detections: PackedDetections, spec: EvalSpec) -> hotcoco.COCOeval:
    """Match detections to the ground truth of all images with hotcoco. Returns the COCOeval after `evaluate`."""
    # COCO's array format holds only boxes, and ids that are exact in float64; otherwise, each detection is a dict.
    small = max(detections.image_ids.max(initial=0), *spec.category_ids) <= MAX_ID
    results = (
        detections.to_array(spec.category_ids)
        if spec.iou_type == "bbox" and small
        else detections.to_results(spec.category_ids, [spec.iou_type])
    )
    evaluator = hotcoco.COCOeval(coco, coco.load_res(results), spec.iou_type)
    evaluator.params.cat_ids = spec.evaluated_ids
    evaluator.params.max_dets = list(spec.max_dets)
    if spec.sigmas is not None:
        evaluator.params.kpt_oks_sigmas = list(spec.sigmas)
    evaluator.evaluate()
    return evaluator


class HotcocoBackend:
    """Evaluates with hotcoco (in Rust, fast).

    Args:
        coco: the ground truth.
    """

    def __init__(self, coco: hotcoco.COCO):
        self.coco = coco

    def __call__(self, detections: PackedDetections, spec: EvalSpec) -> PRCurves:
        """Compute the precision-recall curves of the detections over all images of the ground truth."""
        evaluator = hotcoco_evaluator(self.coco, detections, spec)
        evaluator.accumulate()
        assert evaluator.eval is not None
        areas = tuple(evaluator.params.area_rng_lbl)
        return PRCurves(evaluator.eval["precision"], evaluator.eval["recall"], spec.max_dets, areas)


class PycocotoolsBackend:
    """Evaluates with pycocotools, the slow reference implementation; it is called like HotcocoBackend."""

    def __init__(self, coco: hotcoco.COCO):
        self.coco = _reference_index(coco)

    def __call__(self, detections: PackedDetections, spec: EvalSpec) -> PRCurves:
        results = detections.to_results(spec.category_ids, [spec.iou_type])
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            # loadRes does not accept an empty list.
            index = self.coco.loadRes(results) if results else _index(self.coco.dataset, [])
            evaluator = COCOeval(self.coco, index, spec.iou_type)
            evaluator.params.catIds = spec.evaluated_ids
            evaluator.params.maxDets = list(spec.max_dets)
            if spec.sigmas is not None:
                evaluator.params.kpt_oks_sigmas = np.array(spec.sigmas)
            evaluator.evaluate()
            evaluator.accumulate()
        areas = tuple(evaluator.params.areaRngLbl)
        return PRCurves(evaluator.eval["precision"], evaluator.eval["recall"], spec.max_dets, areas)


def _reference_index(coco: hotcoco.COCO) -> COCO:
    """Convert the ground truth to a pycocotools COCO object.

    Annotations are numbered from 1, because pycocotools treats a match with annotation id 0 as no match. Missing fields
    that pycocotools requires are filled in, as in hotcoco.
    """
    content = coco.dataset
    keypoints = {category["id"]: len(category.get("keypoints", [])) for category in content["categories"]}
    annotations = []
    for number, annotation in enumerate(content["annotations"], 1):
        if "area" not in annotation:
            _, _, width, height = annotation["bbox"]
            has_mask = bool(annotation.get("segmentation"))
            annotation["area"] = float(rle.area(coco.ann_to_rle(annotation))) if has_mask else width * height
        points = annotation.get("keypoints") or [0, 0, 0] * keypoints.get(annotation["category_id"], 0)
        labeled = sum(visibility > 0 for visibility in points[2::3])
        annotations.append({"iscrowd": 0, "num_keypoints": labeled, **annotation, "keypoints": points, "id": number})
    with contextlib.redirect_stdout(io.StringIO()):
        return _index(content, annotations)


def _index(content: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    index = COCO()
    index.dataset = {**content, "annotations": annotations}
    index.createIndex()
    return index


Backend = Callable[[PackedDetections, EvalSpec], PRCurves]
BackendName = Literal["hotcoco", "pycocotools"]
BACKENDS: dict[BackendName, Callable[[hotcoco.COCO], Backend]] = {
    "hotcoco": HotcocoBackend,
    "pycocotools": PycocotoolsBackend,
}
