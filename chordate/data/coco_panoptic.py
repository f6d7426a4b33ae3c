"""Datasets in COCO's panoptic format: a JSON file of segments, and for each image a PNG of segment ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import Image

from chordate.data.coco_annotations import resolve_path
from chordate.data.dataset import Dataset
from chordate.data.image_io import missing_file, read_image
from chordate.data.label_map import LabelMap
from chordate.data.panoptic_index import read_panoptic_json
from chordate.errors import DataError, UnknownClass
from chordate.registry import DATASETS
from chordate.structures import BITMAP_SIZE, DatasetMeta, ImageInfo, PanopticTargets, Sample
from chordate.structures.panoptic import segment_boxes
from chordate.text import printable


@DATASETS.register_module()
class CocoPanoptic(Dataset):
    """Images with things and stuff of a panoptic JSON file (Kirillov et al. 2019, Panoptic Segmentation).

    Which classes are things follows from `isthing` of the categories; things come first in the labels.

    Transforms see `segments`, a LabelMap of the image's segments, so that everything that is derived from it afterwards
    agrees in every pixel. A sample then has `image` Image uint8 `[3, H, W]` RGB; of the `M` things that are visible
    `boxes` `[M, 4]` float32 x1, y1, x2, y2, `labels` `[M]` int64, `crowd` `[M]` bool and `masks` `[M, 112, 112]` uint8;
    `semantic` LabelMap, the class of each pixel; `slots` LabelMap, the row of each pixel's thing; and `info` ImageInfo.
    Segments with `iscrowd` are ignored: they are no targets, and their pixels have no class.

    Args:
        annotations: the JSON file, relative to `data_root` or absolute.
        images: the folder of the images.
        segments: the folder of the PNGs, in which a segment's id is R + 256 G + 65536 B; by default `annotations`
            without `.json`, as in COCO.
        data_root, pipeline, seed, meta: see `Dataset`.

    Attributes:
        category_ids: the file's category ids, by label.
        image_ids: `[len]` int64, ascending.

    Raises:
        DataError: a file or folder is missing or broken, or an id has no partner.
    """

    target_type = PanopticTargets
    default_metric = "PanopticMetric"

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        segments: str | Path | None = None,
        *,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        seed: int = 0,
        meta: DatasetMeta | None = None,
    ):
        super().__init__(data_root=data_root, pipeline=pipeline, seed=seed, meta=meta)
        self.annotations = resolve_path(data_root, annotations)
        self.images = resolve_path(data_root, images)
        self.segments = self.annotations.with_suffix("") if segments is None else resolve_path(data_root, segments)
        self.index = read_panoptic_json(self.annotations)
        for folder in (self.images, self.segments):
            if not folder.is_dir():
                raise DataError(missing_file(folder, "data").replace("data file", "folder"))
        own = self.index.meta()
        if meta is None:
            self.meta = own
        _check_same_classes(self.annotations, own, self.meta)
        by_name = {name: number for number, name in self.index.names.items()}
        self.category_ids = [by_name[name] for name in self.meta.classes]
        self.image_ids, self.sizes = self.index.image_ids, self.index.sizes
        label_of = {number: label for label, number in enumerate(self.category_ids)}
        self.labels = np.array([label_of[number] for number in self.index.categories.tolist()], np.int64)
        self.is_thing = np.array([number in self.index.things for number in self.category_ids])

    def __len__(self) -> int:
        return len(self.image_ids)

    def read(self, index: int) -> Sample:
        """The sample before its transforms.

        Raises:
            DataError: a file cannot be read, the two have different sizes, or a segment id has no partner.
        """
        path = self.images / self.index.files[index, 0]
        image = Image(read_image(path, tuple(self.sizes[index])))
        own = self._rows(index)
        return {
            "image": image,
            "segments": LabelMap(self.read_segments(index)),
            "segment_labels": torch.from_numpy(self.labels[own]),
            "segment_crowd": torch.from_numpy(self.index.crowd[own]),
            "info": ImageInfo(int(self.image_ids[index]), str(path), *image.shape[-2:]),
        }

    def finish(self, sample: Sample) -> Sample:
        numbers = sample.pop("segments").as_subclass(Tensor).long()
        labels, crowd = sample.pop("segment_labels"), sample.pop("segment_crowd")
        boxes = segment_boxes(numbers, len(labels))
        rows = torch.from_numpy(self.is_thing)[labels] & (boxes[:, 2] > boxes[:, 0])  # the things that are visible
        slots = torch.cat([rows.new_zeros(1, dtype=torch.int16), (rows.cumsum(0) * rows).short()])
        classes = torch.cat([labels.new_zeros(1), torch.where(crowd, 0, labels + 1)]).short()
        return {
            **sample,
            "boxes": boxes[rows].float(),
            "labels": labels[rows],
            "crowd": crowd[rows],
            "masks": box_bitmaps(numbers, boxes[rows], rows.nonzero()[:, 0] + 1),
            "semantic": LabelMap(classes[numbers]),
            "slots": LabelMap(slots[numbers]),
        }

    def segments_of(self, image_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """The segments of an image at its original size: numbers `[H, W]` int16, 1 … `S` and 0 for none, and for
        each segment its label `[S]` and whether it is a crowd `[S]` bool."""
        index = int(np.searchsorted(self.image_ids, image_id))
        own = self._rows(index)
        crowd = torch.from_numpy(self.index.crowd[own])
        return self.read_segments(index), torch.from_numpy(self.labels[own]), crowd

    def read_segments(self, index: int) -> Tensor:
        """The number of each pixel's segment, `[H, W]` int16: 1 for the first segment of the image, 0 for none."""
        path = self.segments / self.index.files[index, 1]
        ids = _read_ids(path)
        if ids.shape != tuple(self.sizes[index]):
            height, width = self.sizes[index].tolist()
            raise DataError(
                f"{path}: {ids.shape[1]}×{ids.shape[0]}, but its image {self.index.files[index, 0]} is {width}×{height}"
            )
        known = np.concatenate([[0], self.index.ids[self._rows(index)]])
        present, inverse = np.unique(ids, return_inverse=True)
        if extra := np.setdiff1d(present, known).tolist():
            raise DataError(f"{path}: pixels have the segment id {extra[0]}, which is not in {self.annotations.name}")
        if missing := np.setdiff1d(known[1:], present).tolist():
            raise DataError(f"{self.annotations}: segment {missing[0]} of {path.name} has no pixel in {path}")
        return torch.from_numpy(np.searchsorted(known, present).astype(np.int16)[inverse.reshape(ids.shape)])

    def check_annotated(self, training: bool) -> None:
        if training and self.index.crowd.all():
            raise DataError(f"{self.annotations}: no segments, so there is nothing to train on; annotate some images")

    def class_images(self) -> list[NDArray[np.int64]]:
        """For each class, the indices of the images that contain it, for class-balanced sampling."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.index.starts))
        return [np.unique(owner[self.labels == label]) for label in range(len(self.meta.classes))]

    def _rows(self, index: int) -> slice:
        """The segments of an image in the arrays of the index."""
        return slice(*self.index.starts[index : index + 2].tolist())


def box_bitmaps(numbers: Tensor, boxes: Tensor, own: Tensor) -> Tensor:
    """Bitmaps of segments, each covering the segment's box, for `InstanceTargets.masks`.

    Args:
        numbers: `[H, W]` the segment of each pixel.
        boxes: `[M, 4]` int64 x1, y1, x2, y2 in pixels.
        own: `[M]` the number of each box's segment.

    Returns:
        `[M, 112, 112]` uint8, 0 or 1: the map at the center of each cell.
    """
    centers = (torch.arange(BITMAP_SIZE) + 0.5) / BITMAP_SIZE
    x, y = (
        boxes[:, low, None] + (centers * (boxes[:, low + 2] - boxes[:, low])[:, None]).floor().long() for low in (0, 1)
    )
    return (numbers[y[:, :, None], x[:, None]] == own[:, None, None]).byte()


def _read_ids(path: Path) -> NDArray[np.int64]:
    """The segment ids `[H, W]` of a PNG."""
    if not path.is_file():
        raise DataError(missing_file(path, "panoptic"))
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None:
        raise DataError(f"{path}: not a readable image, or truncated; copy or download it again")
    if image.ndim != 3 or image.dtype != np.uint8:
        raise DataError(f"{path}: not an RGB PNG; a segment's id must be its color, R + 256 G + 65536 B")
    return image[..., :3].astype(np.int64) @ np.array([65536, 256, 1])  # OpenCV's order is B, G, R


def _check_same_classes(path: Path, own: DatasetMeta, model: DatasetMeta) -> None:
    """Check that a file has the classes of the model, and the same ones as stuff.

    Raises:
        UnknownClass: a class is only in one of them, or is a thing in one and stuff in the other.
    """
    if differing := sorted(set(own.classes) ^ set(model.classes)):
        holder = "the model" if differing[0] in model.classes else "its categories"
        raise UnknownClass(f"{path}: {printable(differing[0])} is only a class of {holder}")
    if differing := sorted(set(own.stuff) ^ set(model.stuff)):
        kind = "stuff" if differing[0] in own.stuff else "a thing"
        raise UnknownClass(f"{path}: {printable(differing[0])} is {kind} here, but not in the model (see isthing)")
