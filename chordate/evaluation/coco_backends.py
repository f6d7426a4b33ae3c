"""The two engines that match detections to ground truth: hotcoco, and pycocotools as the reference."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from chordate.evaluation.packed_detections import Rows
from chordate.evaluation.pr_curves import Curves


@dataclass(frozen=True)
class Task:
    """One thing to measure.

    Attributes:
        iou_type: what overlap is measured on, "bbox", "segm" or "keypoints".
        labels: of the classes that are judged.
        category_ids: of every label.
        max_dets: limits on the detections of an image and class, ascending.
        sigmas: how far off a keypoint may be, one for each, as COCO's; None where none are judged.
    """

    iou_type: str
    labels: tuple[int, ...]
    category_ids: tuple[int, ...]
    max_dets: tuple[int, ...]
    sigmas: tuple[float, ...] | None = None

    @property
    def judged(self) -> list[int]:
        """The category ids of `labels`."""
        return [self.category_ids[label] for label in self.labels]


def hotcoco_judge(coco: hotcoco.COCO, rows: Rows, task: Task) -> hotcoco.COCOeval:
    """hotcoco's evaluation of detections over all images of the ground truth, matched but not yet accumulated."""
    boxes = task.iou_type == "bbox"  # these go in as one array, others as one dict each
    found = rows.columns(task.category_ids) if boxes else rows.results(task.category_ids, [task.iou_type])
    judge = hotcoco.COCOeval(coco, coco.load_res(found), task.iou_type)
    judge.params.cat_ids = task.judged
    judge.params.max_dets = list(task.max_dets)
    if task.sigmas is not None:
        judge.params.kpt_oks_sigmas = list(task.sigmas)
    judge.evaluate()
    return judge


class HotcocoEngine:
    """The fast engine, in Rust.

    Args:
        coco: the ground truth.
    """

    def __init__(self, coco: hotcoco.COCO):
        self.coco = coco

    def __call__(self, rows: Rows, task: Task) -> Curves:
        """The curves of detections over all images of the ground truth."""
        judge = hotcoco_judge(self.coco, rows, task)
        judge.accumulate()
        assert judge.eval is not None
        return Curves(judge.eval["precision"], judge.eval["recall"], task.max_dets, tuple(judge.params.area_rng_lbl))


class PycocotoolsEngine:
    """The reference of the field, slow. Called like HotcocoEngine."""

    def __init__(self, coco: hotcoco.COCO):
        self.coco = _reference_index(coco)

    def __call__(self, rows: Rows, task: Task) -> Curves:
        results = rows.results(task.category_ids, [task.iou_type])
        with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress by print
            found = self.coco.loadRes(results) if results else _index(self.coco.dataset, [])  # it refuses an empty list
            judge = COCOeval(self.coco, found, task.iou_type)
            judge.params.catIds = task.judged
            judge.params.maxDets = list(task.max_dets)
            if task.sigmas is not None:
                judge.params.kpt_oks_sigmas = np.array(task.sigmas)
            judge.evaluate()
            judge.accumulate()
        return Curves(judge.eval["precision"], judge.eval["recall"], task.max_dets, tuple(judge.params.areaRngLbl))


def _reference_index(coco: hotcoco.COCO) -> COCO:
    """The same ground truth for pycocotools.

    Ids start at 1, because it takes a match with annotation 0 for no match; and what it requires but some
    files leave out is filled in as hotcoco does.
    """
    content = coco.dataset
    keypoints = {category["id"]: len(category.get("keypoints", [])) for category in content["categories"]}
    annotations = []
    for number, annotation in enumerate(content["annotations"], 1):
        if "area" not in annotation:
            _, _, width, height = annotation["bbox"]
            outlined = bool(annotation.get("segmentation"))
            annotation["area"] = float(rle.area(coco.ann_to_rle(annotation))) if outlined else width * height
        points = annotation.get("keypoints") or [0, 0, 0] * keypoints.get(annotation["category_id"], 0)
        seen = sum(visible > 0 for visible in points[2::3])
        annotations.append({"iscrowd": 0, "num_keypoints": seen, **annotation, "keypoints": points, "id": number})
    with contextlib.redirect_stdout(io.StringIO()):
        return _index(content, annotations)


def _index(content: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    index = COCO()
    index.dataset = {**content, "annotations": annotations}
    index.createIndex()
    return index


ENGINES: dict[str, Callable[[hotcoco.COCO], Callable[[Rows, Task], Curves]]] = {
    "hotcoco": HotcocoEngine,
    "pycocotools": PycocotoolsEngine,
}
