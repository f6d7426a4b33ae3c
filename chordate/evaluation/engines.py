"""The two engines that match detections to ground truth: hotcoco, and pycocotools as the reference."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from chordate.evaluation.curves import Curves
from chordate.evaluation.rows import as_results


class HotcocoEngine:
    """The fast engine, in Rust: detections go in as one array.

    Args:
        coco: the ground truth.
    """

    def __init__(self, coco: hotcoco.COCO):
        self.coco = coco

    def __call__(
        self, columns: NDArray[np.float64], iou_type: str, category_ids: Sequence[int], max_dets: Sequence[int]
    ) -> Curves:
        """The curves of detections `[D, 7]` (Rows.columns) over all images of the ground truth."""
        judge = hotcoco.COCOeval(self.coco, self.coco.load_res(columns), iou_type)
        judge.params.cat_ids = list(category_ids)
        judge.params.max_dets = list(max_dets)
        judge.evaluate()
        judge.accumulate()
        assert judge.eval is not None
        return Curves(judge.eval["precision"], judge.eval["recall"], tuple(max_dets))


class PycocotoolsEngine:
    """The reference of the field, slow: detections go in as one dict each. Called like HotcocoEngine."""

    def __init__(self, coco: hotcoco.COCO):
        self.coco = _reference_index(coco)

    def __call__(
        self, columns: NDArray[np.float64], iou_type: str, category_ids: Sequence[int], max_dets: Sequence[int]
    ) -> Curves:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress by print
            # loadRes refuses an empty list
            found = self.coco.loadRes(as_results(columns)) if len(columns) else _index(self.coco.dataset, [])
            judge = COCOeval(self.coco, found, iou_type)
            judge.params.catIds = list(category_ids)
            judge.params.maxDets = list(max_dets)
            judge.evaluate()
            judge.accumulate()
        return Curves(judge.eval["precision"], judge.eval["recall"], tuple(max_dets))


def with_boxes(coco: hotcoco.COCO) -> hotcoco.COCO:
    """The ground truth with a box for every annotation, from its segmentation where the file has none.

    Without one hotcoco would take it for an object that nobody can find. The same index where none is missing.
    """
    ids = coco.get_ann_ids()
    blocks = (ids[start : start + 10_000] for start in range(0, len(ids), 10_000))  # all at once would need memory
    if all(annotation.get("bbox") for block in blocks for annotation in coco.load_anns(block)):
        return coco
    content = coco.dataset
    for annotation in content["annotations"]:
        if not annotation.get("bbox"):
            annotation["bbox"] = rle.toBbox(coco.ann_to_rle(annotation)).tolist()
    return hotcoco.COCO(content)


def _reference_index(coco: hotcoco.COCO) -> COCO:
    """The same ground truth for pycocotools.

    Ids start at 1, because it takes a match with annotation 0 for no match; and what it requires but some
    files leave out is filled in as hotcoco does.
    """
    content = coco.dataset
    annotations = []
    for number, annotation in enumerate(content["annotations"], 1):
        if "area" not in annotation:
            _, _, width, height = annotation["bbox"]
            outlined = bool(annotation.get("segmentation"))
            annotation["area"] = float(rle.area(coco.ann_to_rle(annotation))) if outlined else width * height
        annotations.append({"iscrowd": 0, **annotation, "id": number})
    with contextlib.redirect_stdout(io.StringIO()):
        return _index(content, annotations)


def _index(content: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    index = COCO()
    index.dataset = {**content, "annotations": annotations}
    index.createIndex()
    return index


ENGINES: dict[str, Callable[[hotcoco.COCO], Callable[..., Curves]]] = {
    "hotcoco": HotcocoEngine,
    "pycocotools": PycocotoolsEngine,
}
