"""What a data set's annotations allow to be measured, and the annotations as the engines take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
from pycocotools import mask as rle

from chordate.errors import DataError

BLOCK = 10_000  # annotations read at once; all of a large file's would need much memory


@dataclass(frozen=True)
class GroundTruth:
    """Annotations, completed.

    Attributes:
        coco: the index, with a box for every annotation.
        outlined, bare: how many annotations of our classes have a segmentation, and how many have none.
        keypoints: by category id how many keypoints its objects have; only categories whose objects have some.
    """

    coco: hotcoco.COCO
    outlined: int
    bare: int
    keypoints: dict[int, int]

    @classmethod
    def of(cls, coco: hotcoco.COCO, category_ids: Sequence[int]) -> GroundTruth:
        """Reads every annotation once."""
        ours, outlined, bare, boxed = set(category_ids), 0, 0, True
        for annotation in _annotations(coco):
            boxed = boxed and bool(annotation.get("bbox"))
            if annotation["category_id"] in ours:
                outlined += bool(annotation.get("segmentation"))
                bare += not annotation.get("segmentation")
        keypoints = {
            category["id"]: len(category["keypoints"])
            for category in coco.load_cats(list(category_ids))
            if category.get("keypoints")
        }
        return cls(coco if boxed else _with_boxes(coco), outlined, bare, keypoints)

    def check_masks(self) -> None:
        """Raises:
        DataError: not every annotation has a segmentation.
        """
        if self.bare:
            raise DataError(
                f"CocoMetric: {self.bare} of {self.outlined + self.bare} annotations have no segmentation, so masks "
                f'cannot be judged; add them, or judge boxes alone with metric.iou_types=["bbox"]'
            )

    def count_keypoints(self) -> int:
        """How many keypoints an object has.

        Raises:
            DataError: no category has keypoints, or their numbers differ.
        """
        counts = sorted(set(self.keypoints.values()))
        if not counts:
            raise DataError(
                'CocoMetric: no category of the annotations has "keypoints", so they cannot be judged; name them '
                'there, or judge boxes alone with metric.iou_types=["bbox"]'
            )
        if len(counts) > 1:
            raise DataError(
                f"CocoMetric: categories have {counts[0]} and {counts[1]} keypoints; use classes=[…] of one"
            )
        return counts[0]


def _annotations(coco: hotcoco.COCO) -> Iterator[dict[str, Any]]:
    ids = coco.get_ann_ids()
    for start in range(0, len(ids), BLOCK):
        yield from coco.load_anns(ids[start : start + BLOCK])


def _with_boxes(coco: hotcoco.COCO) -> hotcoco.COCO:
    """A box for every annotation, from its segmentation where the file has none.

    Without one hotcoco would take it for an object that nobody can find.
    """
    content = coco.dataset
    for annotation in content["annotations"]:
        if not annotation.get("bbox"):
            annotation["bbox"] = rle.toBbox(coco.ann_to_rle(annotation)).tolist()
    return hotcoco.COCO(content)
