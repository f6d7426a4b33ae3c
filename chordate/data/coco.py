"""Data sets with COCO annotations: an index that forked workers share, read one image at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import torch
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from chordate.data.coco_annotations import Health, box_of, check_health, located, open_index
from chordate.data.rasterize import instance_bitmaps
from chordate.data.instance_keypoints import has_keypoints, read_keypoints, skeleton_of
from chordate.data.polygons import Polygons, Ring, oriented
from chordate.data.seeding import seeded
from chordate.data.image_io import read_image
from chordate.data.rle import mask_rings
from chordate.data.transforms import SanitizeInstances, build_pipeline
from chordate.errors import DataError, UnknownClass, unknown
from chordate.registry import DATASETS
from chordate.structures import ImageInfo, Skeleton

Sample = dict[str, Any]


@DATASETS.register_module()
class CocoDataset(torch.utils.data.Dataset[Sample]):
    """Images and instances of a COCO annotation file.

    `dataset[(epoch, index)]` is a sample, a pure function of the key and `seed`:
    `image` Image uint8 `[3, H, W]` RGB; `boxes` BoundingBoxes `[M, 4]` x1, y1, x2, y2 float32 pixels;
    `labels` `[M]` int64; `crowd` `[M]` bool; with `masks` also `masks` `[M, 112, 112]` uint8 in the boxes'
    frames; with `keypoints` also `keypoints` `[M, K, 3]` float32, x, y in continuous pixels and visibility; `info`
    ImageInfo. Boxes are clipped to the picture, those without area are left out.

    The index lies in memory that forked workers share; a spawned worker opens the file again.

    Args:
        annotations: the file, relative to `data_root` or absolute.
        images: the folder of the images that the file names.
        data_root: the folder that the two are in.
        pipeline: transforms, as dicts with `type` or built.
        classes: names of the categories to use, label 0 first; None uses all in the order of their ids.
            Annotations of other categories are left out.
        seed: of the augmentation.
        filter_empty: leave out images without an instance (crowds do not count, nor with `keypoints` instances
            without a labelled one).
        health: "error" stops at contradictions in the file, "warn" only reports them (`check_health`).
        masks: read segmentations and give bitmaps; polygons of instances go through the pipeline as
            `polygons`. Crowds have none: they are never learnt.
        keypoints: read keypoints; through the pipeline they go as InstanceKeypoints.

    Attributes:
        classes: names, by label.
        category_ids: the file's category ids, by label.
        skeleton: with `keypoints`, their names and bones; else None.
        coco: the index (hotcoco.COCO) of the whole file.
        image_ids: `[len]` of the images used, ascending.
        sizes: `[len, 2]` height and width of each, as the file says.
        health_report: what the health check found, a line each; empty for a healthy file.

    Raises:
        DataError: a file or folder is missing or broken, the annotations contradict themselves, a class is
            unknown, there are no keypoints, or no image is left.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        classes: Sequence[str] | None = None,
        seed: int = 0,
        filter_empty: bool = False,
        health: Health = "error",
        masks: bool = False,
        keypoints: bool = False,
    ):
        self.annotations = located(data_root, annotations)
        self.images = located(data_root, images)
        self.pipeline = build_pipeline(pipeline)
        self.seed, self.masks = seed, masks
        self.coco = self._open()
        if not self.images.is_dir():
            raise DataError(f"{self.images}: no such image folder; {self.annotations.name} names pictures in it")
        self.health_report = check_health(self.coco, str(self.annotations), health)
        self.category_ids, self.classes = self._choose(classes)
        self.labels = {category: label for label, category in enumerate(self.category_ids)}
        self.skeleton: Skeleton | None = None
        if keypoints:
            self.skeleton = skeleton_of(self.coco.load_cats(self.category_ids), str(self.annotations))
        self.image_ids = np.unique(np.array(self.coco.get_img_ids(), np.int64))
        if filter_empty:
            self.image_ids = self._with_instances()
        if not len(self.image_ids):
            what = "no image with an instance of its classes" if filter_empty else "no images"
            raise DataError(f"{self.annotations}: {what}; there is nothing to load")
        parts = np.array_split(self.image_ids, 1 + len(self.image_ids) // 4096)  # all at once would need much memory
        sizes = []
        for record in (record for part in parts for record in self.coco.load_imgs(part.tolist())):
            if not record.get("file_name"):
                raise DataError(f"{self.annotations}: image {record['id']} has no file_name; add it")
            sizes.append((record["height"], record["width"]))
        self.sizes = np.array(sizes)

    def _open(self) -> hotcoco.COCO:
        """The index; again in every process that does not share its parent's."""
        return open_index(self.annotations)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "coco"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.coco = self._open()

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        """The sample of a key `(epoch, index)`, or `(epoch, index, repeat)` (see samplers)."""
        sample = self.read(key[1])
        with seeded(self.seed, *key):
            sample = SanitizeInstances()(self.pipeline(sample, self._draw))
        polygons = sample.pop("polygons", None)
        if polygons is not None:
            sample["masks"] = instance_bitmaps(polygons, sample["boxes"].as_subclass(Tensor))
        if "keypoints" in sample:
            sample["keypoints"] = sample["keypoints"].as_subclass(Tensor)
        return sample

    def _draw(self) -> Sample:
        """A random sample before its transforms, for those that mix several pictures."""
        return self.read(int(torch.randint(len(self), ())))

    def read(self, index: int) -> Sample:
        """The sample before its transforms; masks are still `polygons`."""
        record = self.coco.load_imgs([int(self.image_ids[index])])[0]
        path = self.images / record["file_name"]
        image = Image(read_image(path, (record["height"], record["width"])))
        size = image.shape[-2], image.shape[-1]
        found = self._annotations(record["id"])
        crowd = [bool(annotation.get("iscrowd", 0)) for annotation in found]
        rings: list[list[Ring]] = []
        if self.masks:
            rings = [[] if group else self._rings(a) for a, group in zip(found, crowd)]
            crowd = [not part for part in rings]  # a polygon of one or two points is no mask to learn either
        sample: Sample = {
            "image": image,
            "boxes": BoundingBoxes(self._boxes(found), format=BoundingBoxFormat.XYXY, canvas_size=size),
            "labels": torch.tensor([self.labels[a["category_id"]] for a in found], dtype=torch.int64),
            "crowd": torch.tensor(crowd, dtype=torch.bool),
            "info": ImageInfo(record["id"], str(path), *size),
        }
        if self.masks:
            sample["polygons"] = Polygons.from_rings(rings, size)
        if self.skeleton is not None:
            sample["keypoints"] = read_keypoints(found, self.skeleton, size, str(self.annotations))
        return SanitizeInstances()(sample)

    def _annotations(self, image_id: int) -> list[dict[str, Any]]:
        """Those of our classes on an image; where a file contradicts itself, only what is surely meant."""
        found = self.coco.load_anns(self.coco.get_ann_ids(img_ids=image_id))
        return [
            annotation
            for annotation in found
            if annotation["category_id"] in self.labels
            and annotation["image_id"] == image_id  # of duplicate ids the index gives the last, of any image
            and (annotation.get("bbox") or annotation.get("segmentation"))
        ]

    def class_images(self) -> list[NDArray[np.int64]]:
        """For each class the indices of the images that show it, for class-balanced sampling."""
        shown = [self.coco.get_img_ids(cat_ids=[category]) for category in self.category_ids]
        return [np.flatnonzero(np.isin(self.image_ids, ids)) for ids in shown]

    def count(self, *, crowd: bool) -> int:
        """How many annotations of our classes the file has: crowds, or single instances."""
        return len(self.coco.get_ann_ids(cat_ids=self.category_ids, iscrowd=crowd))

    def _choose(self, classes: Sequence[str] | None) -> tuple[list[int], tuple[str, ...]]:
        """Category ids and names by label."""
        categories = self.coco.load_cats(sorted(set(self.coco.get_cat_ids())))
        if not categories:
            raise DataError(f"{self.annotations}: it has no categories, so there is nothing to learn")
        by_name = {category["name"]: category["id"] for category in categories}
        if len(by_name) < len(categories):
            raise DataError(f"{self.annotations}: several categories have the same name; rename them")
        names = list(by_name) if classes is None else list(classes)
        for name in names:
            if name not in by_name:
                raise UnknownClass(f"{self.annotations}: {unknown('class', name, by_name)}")
        if classes is None:
            return [category["id"] for category in categories], tuple(c["name"] for c in categories)
        if len(names) < len(categories):
            print_log(f"{self.annotations}: {len(names)} of its {len(categories)} classes are used", logger="current")
        if not names or len(set(names)) < len(names):
            raise DataError(f"classes={names}: name each class once, and at least one")
        return [by_name[name] for name in names], tuple(names)

    def _with_instances(self) -> NDArray[np.int64]:
        """Of the images those with an instance of our classes, and with labelled keypoints where these are read."""
        shown: set[int] = set()
        if self.skeleton is not None:
            for part in np.array_split(self.image_ids, 1 + len(self.image_ids) // 4096):
                ids = self.coco.get_ann_ids(img_ids=part.tolist(), cat_ids=self.category_ids, iscrowd=False)
                shown.update(a["image_id"] for a in self.coco.load_anns(ids) if has_keypoints(a))
            return self.image_ids[np.isin(self.image_ids, list(shown))]
        for category in self.category_ids:
            shown.update(self.coco.get_img_ids(cat_ids=[category]))
        crowds = self.coco.load_anns(self.coco.get_ann_ids(cat_ids=self.category_ids, iscrowd=True))
        for image in {crowd["image_id"] for crowd in crowds}:
            if not self.coco.get_ann_ids(img_ids=image, cat_ids=self.category_ids, iscrowd=False):
                shown.discard(image)
        return self.image_ids[np.isin(self.image_ids, list(shown))]

    def _boxes(self, annotations: list[dict[str, Any]]) -> Tensor:
        """`[M, 4]` x1, y1, x2, y2 of COCO's x, y, width, height; of the segmentation where there is no box."""
        boxes = [box_of(self.coco, annotation) for annotation in annotations]
        corners = np.array(boxes, np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return torch.from_numpy(corners.astype(np.float32))

    def _rings(self, annotation: dict[str, Any]) -> list[Ring]:
        """The rings of a polygon or run-length mask."""
        segmentation = annotation.get("segmentation")
        if not segmentation:
            raise DataError(
                f"{self.annotations}: annotation {annotation['id']} has no segmentation; masks=True needs one"
            )
        if isinstance(segmentation, dict):
            return mask_rings(self.coco.ann_to_mask(annotation))
        return [oriented(np.array(part, np.float32).reshape(-1, 2)) for part in segmentation if len(part) >= 6]
