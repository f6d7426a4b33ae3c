"""Dataset with COCO annotations, kept in a compact index (hotcoco.COCO) that forked workers share."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from chordate.arguments import Names
from chordate.data.coco_annotations import (
    ALL,
    OpenedAnnotations,
    check_annotations,
    choose_categories,
    keypoint_counts,
    missing_masks,
    open_index,
)
from chordate.data.coco_geometry import MIN_SIDE
from chordate.data.coco_records import load_annotations, load_images
from chordate.data.dataset import Dataset, model_classes
from chordate.data.duplicate_files import report_duplicate_files
from chordate.data.file_ids import Id, id_in_file, parse_id
from chordate.data.file_listing import FileListing
from chordate.data.findings import Health
from chordate.data.image_headers import check_image
from chordate.data.image_io import decode_image, read_bytes, read_image
from chordate.data.instance_keypoints import has_keypoints, read_keypoints, skeleton_of
from chordate.data.missing_images import report_missing, without_images
from chordate.data.paths import missing_folder, resolve_path
from chordate.data.polygons import Polygons, Ring, orient_clockwise
from chordate.data.rasterize import instance_bitmaps
from chordate.data.rle import mask_rings
from chordate.data.transforms import SanitizeInstances
from chordate.data.unchecked_annotations import UncheckedAnnotations
from chordate.errors import DataError
from chordate.registry import DATASETS
from chordate.structures import DatasetMeta, ImageInfo, InstanceTargets, Sample, Targets
from chordate.text import pluralize, printable

log = logging.getLogger("chordate")
SANITIZE = SanitizeInstances(min_size=MIN_SIDE)


@DATASETS.register_module()
class CocoDataset(Dataset):
    """Images and instances of a COCO annotation file.

    A sample is a dict with

    - `image`: Image uint8 `[3, H, W]` RGB,
    - `boxes`: BoundingBoxes float32 `[M, 4]`, x1, y1, x2, y2 in pixels, clipped to the image,
    - `labels`: `[M]` int64,
    - `crowd`: `[M]` bool,
    - `masks`: `[M, 112, 112]` uint8, each covering its instance's box (only if `masks` is set),
    - `has_mask`: `[M]` bool, whether the instance has a usable mask; crowds have none (only if `masks` is set),
    - `keypoints`: `[M, K, 3]` float32, x and y in continuous pixel coordinates, and visibility (only if `keypoints` is
      set),
    - `info`: ImageInfo.

    Instances whose boxes have no area are dropped.

    Forked workers share the memory of `coco`; a spawned worker opens the annotation file again.

    Args:
        annotations: the annotation file, relative to `data_root` or absolute.
        images: the folder that contains the image files, relative to `data_root` or absolute.
        classes: names of the categories to use, in the order of the labels; None uses all, sorted by id.
            Annotations of other categories are ignored.
        filter_empty: whether to skip images that have no instance. Crowds do not count; with `keypoints`, an
            instance counts only if it has a labeled keypoint.
        health: "error" raises DataError for invalid records in the file, "warn" leaves them out and reports their
            number; see `check_annotations`.
        masks: whether to read segmentations. Transforms receive them as `polygons`; the final sample has bitmaps.
            Masks of crowds are not read, since crowds are never trained on. An object without a usable mask trains the
            box head, but not the mask head.
        keypoints: whether to read keypoints. Transforms receive them as InstanceKeypoints.
        check_whole: whether to check all annotations of a very large file when it is opened, which evaluation requires.
            Otherwise only the annotations of the first images are checked then, and the others when they are read.
            `build_dataset` sets it to true for evaluation.
        data_root, pipeline, seed, meta, skip_broken: see `Dataset`. Missing images are found on opening; with
            `skip_broken`, they are left out of the samples and of the ground truth.

    Attributes:
        category_ids: for each label, the id of its category in `coco`.
        coco: hotcoco.COCO, the opened annotations, also of unused categories and of images that `filter_empty` skips.
        image_ids: `[len]` int64, ids of the images in this dataset, ascending.
        missing_ids: ids in the file of the missing images that were left out.

    Raises:
        DataError: a file or folder is missing or broken, records are invalid, a class is unknown, the
            keypoints are missing or differ from the model's, no object has a usable mask although `masks` is set, or
            there is no image to load.
    """

    target_type: type[Targets] | None = InstanceTargets
    health_report: list[str]
    missing_ids: Collection[Id | None] = ()
    default_metric = "CocoMetric"

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        classes: Names | None = None,
        filter_empty: bool = False,
        health: Health = "error",
        masks: bool = False,
        keypoints: bool = False,
        check_whole: bool = False,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        seed: int = 0,
        meta: DatasetMeta | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(data_root=data_root, pipeline=pipeline, seed=seed, meta=meta, skip_broken=skip_broken)
        self.annotations = resolve_path(data_root, annotations)
        self.images = resolve_path(data_root, images)
        self.masks, self.keypoints, self.health, self.check_whole = masks, keypoints, health, check_whole
        listing = FileListing(self.images, self.annotations)
        opened = self._open_checked(listing)
        self.coco, self.health_report, self.checked = opened.coco, opened.report, opened.checked
        self.category_ids, names = choose_categories(self.coco, model_classes(classes, meta), str(self.annotations))
        self.labels = {category: label for label, category in enumerate(self.category_ids)}
        if masks:
            self.health_report += missing_masks(opened, self.category_ids, str(self.annotations))
        if meta is None:
            self.meta = DatasetMeta(names)
        if keypoints:
            self._read_skeleton(meta)
        self.image_ids = np.unique(np.array(self.coco.get_img_ids(), np.int64))
        if filter_empty:
            self.image_ids = self._with_instances()
        if not len(self.image_ids):
            what = "no image has an instance of the used classes" if filter_empty else "no images"
            raise DataError(f"{self.annotations}: {what}; there is nothing to load")
        self._read_images(listing)
        if self.checked < ALL:
            self.unchecked = UncheckedAnnotations(
                self.image_ids, set(self.category_ids), keypoint_counts(self.coco), str(self.annotations), health
            )

    def _open(self) -> hotcoco.COCO | None:
        """Open the annotation file; None if it must be normalized."""
        return open_index(self.annotations)

    def _open_checked(self, listing: FileListing) -> OpenedAnnotations:
        """Open and check the annotations. Spawned workers, which do not share memory with their parent, do it again."""
        index = self._open()
        if not self.images.is_dir():
            raise DataError(
                f"{missing_folder(self.images, 'image')}; the file names in {self.annotations.name} are relative to it"
            )
        return check_annotations(index, self.annotations, listing, self.health, self.check_whole)

    def _read_images(self, listing: FileListing) -> None:
        """Set `sizes`; report images with the same file, and missing files, which are left out if `skip_broken`."""
        sizes, files, ids = [], [], []
        for record in load_images(self.coco, self.image_ids.tolist()):
            sizes.append((record["height"], record["width"]))
            files.append(record["file_name"])
            ids.append(id_in_file(record))
        self.sizes = np.array(sizes)
        self.health_report += report_duplicate_files(files, sizes, ids, str(self.annotations))
        missing = np.array([name not in listing for name in files])
        if missing.any():
            self.health_report.append(report_missing(files, missing, self.images, self.data_root, self.skip_broken))
            absent = [name for name, is_missing in zip(files, missing) if is_missing]
            self.left_out = [*self.left_out, *(f"{self.images / name}: no such image file" for name in absent)]
            self.missing_ids = {parse_id(id) for id, is_missing in zip(ids, missing) if is_missing}
            self.coco = without_images(self.coco, set(self.image_ids[missing].tolist()))
            self.image_ids, self.sizes = self.image_ids[~missing], self.sizes[~missing]

    def _read_skeleton(self, meta: DatasetMeta | None) -> None:
        skeleton = skeleton_of(self.coco.load_cats(self.category_ids), str(self.annotations))
        if meta is None:
            self.meta = replace(self.meta, skeleton=skeleton)
        elif meta.skeleton is not None and meta.skeleton.names != skeleton.names:
            raise DataError(
                f"{self.annotations}: its keypoints are {', '.join(skeleton.names)}, but the model's are "
                f"{', '.join(meta.skeleton.names)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "coco"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.coco = self._open_checked(FileListing(self.images, self.annotations)).coco

    def __len__(self) -> int:
        return len(self.image_ids)

    def read(self, index: int) -> Sample:
        """Read a sample without applying the transforms; its masks are `polygons`."""
        record = self.coco.load_imgs([int(self.image_ids[index])])[0]
        path = self.images / record["file_name"]
        image = Image(
            decode_image(read_bytes(path), path, (record["height"], record["width"]), self.channels, self.white_level)
        )
        size = image.shape[-2], image.shape[-1]
        annotations, boxes = self._annotations(record["id"], size)
        crowd = [bool(annotation.get("iscrowd", 0)) for annotation in annotations]
        sample: Sample = {
            "image": image,
            "boxes": BoundingBoxes(boxes, format=BoundingBoxFormat.XYXY, canvas_size=size),
            "labels": torch.tensor([self.labels[a["category_id"]] for a in annotations], dtype=torch.int64),
            "info": ImageInfo(record["id"], str(path), *size),
        }
        if self.masks:
            rings = [[] if group else self._rings(a) for a, group in zip(annotations, crowd)]
            sample["has_mask"] = Polygons.from_rings(rings, size).overlap(boxes)
            usable = [part if has else [] for part, has in zip(rings, sample["has_mask"].tolist())]
            sample["polygons"] = Polygons.from_rings(usable, size)
        sample["crowd"] = torch.tensor(crowd, dtype=torch.bool)
        if self.keypoints and self.meta.skeleton is not None:
            sample["keypoints"] = read_keypoints(annotations, self.meta.skeleton, size, str(self.annotations))
        return sample

    def id_in_file(self, image_id: int) -> int | str:
        number: int | str = id_in_file(self.coco.load_imgs([image_id])[0])
        return number

    def image_path(self, index: int) -> Path:
        return self.images / self.coco.load_imgs([int(self.image_ids[index])])[0]["file_name"]

    def check_files(self, index: int) -> None:
        record = self.coco.load_imgs([int(self.image_ids[index])])[0]
        size = record["height"], record["width"]
        check_image(
            self.images / record["file_name"],
            size,
            lambda path: read_image(path, size, self.channels, self.white_level),
        )

    def finish(self, sample: Sample) -> Sample:
        sample = SANITIZE(sample)
        if "polygons" in sample:
            sample["masks"] = instance_bitmaps(sample.pop("polygons"), sample["boxes"].as_subclass(Tensor))
        if "keypoints" in sample:
            sample["keypoints"] = sample["keypoints"].as_subclass(Tensor)
        return sample

    def _annotations(self, image_id: int, size: tuple[int, int]) -> tuple[list[dict[str, Any]], Tensor]:
        """Load those annotations of an image that have a used class and a box with a positive area inside the image.

        Returns:
            The annotations, and their boxes `[M, 4]`, x1, y1, x2, y2, clipped to the image. The box of an annotation
            without `bbox` is computed from its segmentation.
        """
        annotations = self.coco.load_anns(self.coco.get_ann_ids(img_ids=image_id))
        annotations = [annotation for annotation in annotations if annotation["category_id"] in self.labels]
        if image_id > self.checked:
            annotations = self.unchecked.check(annotations, image_id, size)
        annotations = [a for a in annotations if a.get("bbox") or a.get("segmentation")]
        boxes = np.array(
            [a.get("bbox") or hotcoco.mask.to_bbox(self.coco.ann_to_rle(a)) for a in annotations], np.float64
        ).reshape(-1, 4)
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1).astype(np.float32)
        corners = corners.clip(0, np.array([size[1], size[0], size[1], size[0]], np.float32))
        kept = np.flatnonzero(((corners[:, 2:] - corners[:, :2]) >= MIN_SIDE).all(1))
        return [annotations[index] for index in kept], torch.from_numpy(corners[kept])

    def read_problems(self) -> dict[str, list[int]]:
        return super().read_problems() | ({"annotations": self.unchecked.unreported()} if self.checked < ALL else {})

    def read_report(self, problems: Mapping[str, Sequence[int]] | None = None) -> list[str]:
        problems = self.read_problems() if problems is None else problems
        later = self.unchecked.report(self.coco, problems["annotations"]) if self.checked < ALL else []
        return super().read_report(problems) + later

    def check_annotated(self, training: bool) -> None:
        if not training and self.checked < ALL:
            raise DataError(
                f"{self.annotations}: only the annotations of its first images are checked; an evaluation needs all: "
                f"set check_whole=True in {type(self).__name__}(…)"
            )
        if self.count(crowd=False):
            return
        what = f"{self.annotations}: {pluralize(len(self), 'image')}, but no instance of {', '.join(self.classes)}"
        crowds = self.count(crowd=True)
        if training and crowds:
            raise DataError(
                f"{what}, only {pluralize(crowds, 'crowd')} (iscrowd 1, which CVAT writes for every mask), so there is "
                f"nothing to train on; set iscrowd to 0 for single objects"
            )
        if training:
            raise DataError(f"{what}, so there is nothing to train on; annotate some images")
        if not crowds:
            log.warning(f"{printable(what, None)}; there is no ground truth to evaluate on")

    def class_images(self) -> list[NDArray[np.int64]]:
        """For each class, the indices of the images that contain the class, for class-balanced sampling."""
        ids_by_class = [self.coco.get_img_ids(cat_ids=[category]) for category in self.category_ids]
        return [np.flatnonzero(np.isin(self.image_ids, ids)) for ids in ids_by_class]

    def count(self, *, crowd: bool) -> int:
        """Number of annotations of the used classes in the file: of crowds if `crowd`, else of single instances."""
        return len(self.coco.get_ann_ids(cat_ids=self.category_ids, iscrowd=crowd))

    def _with_instances(self) -> NDArray[np.int64]:
        """Ids of the images with an instance of the used classes (and a labeled keypoint, if `keypoints`)."""
        used: set[int] = set()
        if self.keypoints:
            ids = self.coco.get_ann_ids(cat_ids=self.category_ids, iscrowd=False)
            used.update(a["image_id"] for a in load_annotations(self.coco, ids) if has_keypoints(a))
            return self.image_ids[np.isin(self.image_ids, list(used))]
        for category in self.category_ids:
            used.update(self.coco.get_img_ids(cat_ids=[category]))
        crowds = self.coco.load_anns(self.coco.get_ann_ids(cat_ids=self.category_ids, iscrowd=True))
        for image in {crowd["image_id"] for crowd in crowds}:
            if not self.coco.get_ann_ids(img_ids=image, cat_ids=self.category_ids, iscrowd=False):
                used.discard(image)
        return self.image_ids[np.isin(self.image_ids, list(used))]

    def _rings(self, annotation: dict[str, Any]) -> list[Ring]:
        """The polygons of an annotation's `segmentation`, which is a list of polygons or an RLE."""
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            return mask_rings(self.coco.ann_to_mask(annotation))
        return [orient_clockwise(np.array(part, np.float32).reshape(-1, 2)) for part in segmentation or ()]
