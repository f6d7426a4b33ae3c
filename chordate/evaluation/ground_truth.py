"""COCO ground truth: fills in missing boxes, and checks whether masks and keypoints can be evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from chordate.data.coco_records import load_annotations, load_images
from chordate.data.rle import check_rle
from chordate.errors import DataError
from chordate.structures import DatasetMeta


@runtime_checkable
class CocoAnnotated(Protocol):
    """A dataset with the attributes that COCO's metrics need.

    Attributes:
        meta: metadata with the class names.
        category_ids: COCO's category id of each class, in the order of `meta.classes`.
        coco: the annotations; boxes are in pixels of the original images.
        image_ids: `[len]` int64, ids of the images that are evaluated.
    """

    meta: DatasetMeta
    category_ids: Sequence[int]
    coco: hotcoco.COCO
    image_ids: NDArray[np.int64]


def check_annotated(dataset: object, metric: str) -> None:
    """Check that a dataset is CocoAnnotated; messages name `metric`.

    Raises:
        DataError: the dataset lacks an attribute, `coco` is not a hotcoco.COCO, or the number of category ids differs
            from the number of classes.
    """
    name, members = type(dataset).__name__, ", ".join(CocoAnnotated.__annotations__)
    if not isinstance(dataset, CocoAnnotated):
        raise DataError(f"{metric} needs a dataset with COCO annotations (attributes {members}), which {name} is not")
    if not isinstance(dataset.coco, hotcoco.COCO):
        raise DataError(f"{metric}: {name}.coco must be a hotcoco.COCO, got {type(dataset.coco).__name__}")
    if len(dataset.category_ids) != len(dataset.meta.classes):
        counts = f"{len(dataset.category_ids)} category_ids for {len(dataset.meta.classes)} classes"
        raise DataError(f"{metric}: {name} has {counts}; pass one category id per class, in the order of the labels")


@dataclass(frozen=True)
class GroundTruth:
    """COCO annotations, with missing boxes filled in.

    Attributes:
        coco: the COCO object, with a box for every annotation.
        with_masks, without_masks: number of annotations of the evaluated categories with and without a segmentation.
        keypoints: dict from category id to number of keypoints, for categories that have keypoints.
        most_per_image: largest number of objects of the evaluated categories in an image, without crowds.
        most_per_class: largest number of objects of one of these categories in an image, without crowds.
    """

    coco: hotcoco.COCO
    with_masks: int
    without_masks: int
    keypoints: dict[int, int]
    most_per_image: int = 0
    most_per_class: int = 0

    @classmethod
    def from_index(cls, coco: hotcoco.COCO, category_ids: Sequence[int]) -> GroundTruth:
        """Make a GroundTruth by reading every annotation once.

        Args:
            coco: the opened annotation file.
            category_ids: ids of the evaluated categories.

        Raises:
            DataError: an RLE does not describe a mask of its image's size.
        """
        evaluated, with_masks, without_masks, all_boxed = set(category_ids), 0, 0, True
        objects: Counter[tuple[int, int]] = Counter()  # number of objects per image and category
        sizes = {image["id"]: (image["height"], image["width"]) for image in load_images(coco)}
        for annotation in load_annotations(coco):
            if annotation["image_id"] in sizes:
                check_rle(annotation, sizes[annotation["image_id"]], "CocoMetric")
            all_boxed = all_boxed and bool(annotation.get("bbox"))
            if annotation["category_id"] in evaluated:
                with_masks += bool(annotation.get("segmentation"))
                without_masks += not annotation.get("segmentation")
                if not annotation.get("iscrowd"):
                    objects[annotation["image_id"], annotation["category_id"]] += 1
        per_image: Counter[int] = Counter()
        for (image_id, _), count in objects.items():
            per_image[image_id] += count
        keypoints = {
            category["id"]: len(category["keypoints"])
            for category in coco.load_cats(list(category_ids))
            if category.get("keypoints")
        }
        most = max(per_image.values(), default=0), max(objects.values(), default=0)
        return cls(coco if all_boxed else _with_boxes(coco), with_masks, without_masks, keypoints, *most)

    def check_masks(self) -> None:
        """Check that masks can be evaluated.

        Raises:
            DataError: an annotation of the evaluated categories has no segmentation.
        """
        if self.without_masks:
            raise DataError(
                f"CocoMetric: {self.without_masks} of {self.with_masks + self.without_masks} annotations have no "
                f'segmentation, so masks cannot be evaluated; add the segmentations, or set metric.iou_types=["bbox"]'
            )

    def count_keypoints(self) -> int:
        """Number of keypoints per object, equal for all categories with keypoints.

        Raises:
            DataError: no category has keypoints, or categories have different numbers of keypoints.
        """
        counts = sorted(set(self.keypoints.values()))
        if not counts:
            raise DataError(
                'CocoMetric: no category of the annotations has "keypoints", so keypoints cannot be evaluated; add '
                'them to the file, or set metric.iou_types=["bbox"]'
            )
        if len(counts) > 1:
            raise DataError(
                f"CocoMetric: categories have {counts[0]} and {counts[1]} keypoints; select classes with equal numbers "
                f"of keypoints"
            )
        return counts[0]


def _with_boxes(coco: hotcoco.COCO) -> hotcoco.COCO:
    """Fill in missing boxes, computed from the segmentations.

    Without a box, hotcoco would count the annotation as an object that cannot be detected.
    """
    content = coco.dataset
    for annotation in content["annotations"]:
        if not annotation.get("bbox"):
            annotation["bbox"] = rle.toBbox(coco.ann_to_rle(annotation)).tolist()
    return hotcoco.COCO(content)
