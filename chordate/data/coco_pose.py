"""CocoPoseDataset: one sample per object of a COCO keypoint dataset, for top-down pose estimation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from chordate.arguments import Fraction, Names
from chordate.data.coco import CocoDataset
from chordate.data.coco_geometry import MIN_SIDE
from chordate.data.coco_records import load_annotations, load_images
from chordate.data.detected_boxes import DetectedBoxes, ids_by_file_id, read_detected_boxes
from chordate.data.findings import Health
from chordate.data.image_io import read_image
from chordate.data.instance_keypoints import has_keypoints, read_keypoints
from chordate.data.paths import resolve_path
from chordate.errors import DataError
from chordate.registry import DATASETS
from chordate.structures import DatasetMeta, Sample, Statistic
from chordate.structures.pose import IDENTITY, CropInfo, PoseTargets
from chordate.structures.statistics import count_value

NO_ANNOTATION = -1  # annotation id of detected boxes, which have no annotation


@DATASETS.register_module()
class CocoPoseDataset(CocoDataset):
    """Objects with keypoints, one per sample; in COCO these are people.

    The pipeline must contain a `TopDownCrop`. A sample is a dict with

    - `image`: Image uint8 `[3, H, W]` RGB, the whole image before `TopDownCrop`, the crop after it,
    - `boxes`: BoundingBoxes float32 `[1, 4]`, x1, y1, x2, y2 in pixels,
    - `labels`: `[1]` int64,
    - `keypoints`: `[1, K, 3]` float32, x and y in continuous pixel coordinates, and visibility; transforms receive
      them as InstanceKeypoints,
    - `info`: CropInfo.

    Args:
        annotations, images, classes, health: see `CocoDataset`.
        boxes: a detector's results file in COCO's format (as written by `chordate test --predictions`), relative to
            `data_root` or absolute. Each of its boxes of a used category is a sample, without labeled keypoints. If
            None, each annotation with a box and a labeled keypoint is a sample, except crowds.
        box_score_threshold: minimum score of a detected box; boxes with lower scores are dropped.
        data_root, pipeline, seed, meta, skip_broken: see `CocoDataset`.

    Attributes:
        image_ids: `[images]` int64, ids of the images in ascending order; all are evaluated, also without samples.
        crop_image_ids: `[len]` int64, image id of each sample, in ascending order.

    Raises:
        DataError: as for `CocoDataset`; or the results file is broken or is for other images, or there is no object to
            load.
    """

    target_type = PoseTargets
    default_metric = "PoseMetric"

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        classes: Names | None = None,
        health: Health = "error",
        boxes: str | Path | None = None,
        box_score_threshold: Fraction = 0.0,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        seed: int = 0,
        meta: DatasetMeta | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(
            annotations, images, classes=classes, health=health, keypoints=True, check_whole=True,
            data_root=data_root, pipeline=pipeline, seed=seed, meta=meta, skip_broken=skip_broken,
        )  # fmt: skip
        self.sizes = None  # all crops have the same size
        self.detected = boxes is not None
        if boxes is not None:
            path = resolve_path(data_root, boxes)
            image_ids = ids_by_file_id(self.coco.load_imgs(self.image_ids.tolist()))
            category_ids = ids_by_file_id(self.coco.load_cats(self.category_ids))
            table = read_detected_boxes(path, image_ids, category_ids, box_score_threshold, self.missing_ids)
            ids = np.full(len(table.scores), NO_ANNOTATION, np.int64)
        else:
            table, ids = self._annotated_boxes()
        self.crop_image_ids, self.box_categories, self.boxes, self.box_scores = table
        self.annotation_ids = ids

    def __len__(self) -> int:
        return len(self.crop_image_ids)

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        sample = super().__getitem__(key)
        info = sample["info"]
        if info.matrix == IDENTITY and info.box != (0, 0, info.width, info.height):
            raise DataError(
                "CocoPoseDataset: the pipeline does not crop the object of a sample; add "
                'dict(type="TopDownCrop", size=(256, 192)) to it'
            )
        return sample

    def read(self, index: int) -> Sample:
        """The sample before its transforms: the whole image and the object."""
        assert self.meta.skeleton is not None  # the constructor ensures this
        record = self.coco.load_imgs([int(self.crop_image_ids[index])])[0]
        path = self.images / record["file_name"]
        image = Image(read_image(path, (record["height"], record["width"]), self.channels, self.white_level))
        size = image.shape[-2], image.shape[-1]
        number = int(self.annotation_ids[index])
        annotation = {"id": number} if number == NO_ANNOTATION else self.coco.load_anns([number])[0]
        box, label = self.boxes[index], self.labels[int(self.box_categories[index])]
        corners = torch.from_numpy(box.copy())[None]
        info = CropInfo(
            index, str(path), *size,
            box=tuple(box.tolist()), size=size, score=float(self.box_scores[index]), label=label,
        )  # fmt: skip
        return {
            "image": image,
            "boxes": BoundingBoxes(corners, format=BoundingBoxFormat.XYXY, canvas_size=size, clamping_mode=None),
            "labels": torch.tensor([label]),
            "keypoints": read_keypoints([annotation], self.meta.skeleton, size, str(self.annotations)),
            "info": info,
        }

    def id_in_file(self, image_id: int) -> int | str:
        return super().id_in_file(int(self.crop_image_ids[image_id]))

    def image_path(self, index: int) -> Path:
        return self.images / self.coco.load_imgs([int(self.crop_image_ids[index])])[0]["file_name"]

    def check_files(self, index: int) -> None:
        image_id = self.crop_image_ids[index]
        if not index or self.crop_image_ids[index - 1] != image_id:  # check each image only at its first object
            super().check_files(int(np.searchsorted(self.image_ids, image_id)))

    def finish(self, sample: Sample) -> Sample:
        return {**sample, "keypoints": sample["keypoints"].as_subclass(Tensor)}

    def check_annotated(self, training: bool) -> None:
        if training and self.detected:
            raise DataError(
                "train_data.dataset: boxes of a detector have no keypoints to train on; remove the setting `boxes`, to "
                "train on the annotated boxes"
            )

    def class_images(self) -> list[NDArray[np.int64]]:
        """For each class, the indices of the samples of that class, for class-balanced sampling."""
        return [np.flatnonzero(self.box_categories == category) for category in self.category_ids]

    def sample_statistics(self, index: int) -> dict[str, Statistic]:
        """The number of objects in the image, reported only for the first object of each image."""
        first, end = np.searchsorted(self.crop_image_ids, self.crop_image_ids[index] + np.arange(2))
        return {"objects per image": count_value(int(end - first))} if index == first else {}

    def _annotated_boxes(self) -> tuple[DetectedBoxes, NDArray[np.int64]]:
        """The boxes of all objects with a labeled keypoint, clipped to the images, and the annotation ids."""
        images = load_images(self.coco, self.image_ids.tolist())
        sizes = {record["id"]: (record["width"], record["height"]) for record in images}
        rows = []
        for annotation in load_annotations(self.coco, self.coco.get_ann_ids(cat_ids=self.category_ids, iscrowd=False)):
            if has_keypoints(annotation) and annotation.get("bbox"):
                x, y, w, h = annotation["bbox"]
                width, height = sizes[annotation["image_id"]]
                corners = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
                if min(corners[2] - corners[0], corners[3] - corners[1]) >= MIN_SIDE:
                    rows.append((annotation["image_id"], annotation["category_id"], corners, annotation["id"]))
        if not rows:
            raise DataError(
                f"{self.annotations}: no object with a box and a labeled keypoint; there is nothing to load"
            )
        rows.sort(key=lambda row: (row[0], row[3]))
        image_ids, categories, boxes, numbers = zip(*rows)
        table = DetectedBoxes(
            np.array(image_ids, np.int64), np.array(categories, np.int64), np.array(boxes, np.float32),
            np.ones(len(rows), np.float32),
        )  # fmt: skip
        return table, np.array(numbers, np.int64)
