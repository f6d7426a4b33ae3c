"""Datasets in COCO's panoptic format: a JSON file with the segments, and a PNG of segment ids per image."""

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

from chordate.data.dataset import Dataset
from chordate.data.duplicate_files import report_duplicate_files
from chordate.data.file_listing import FileListing
from chordate.data.image_bands import decode_unchanged, undecodable
from chordate.data.image_headers import check_image
from chordate.data.image_io import check_image_file, read_bytes, read_image
from chordate.data.label_map import LabelMap
from chordate.data.missing_images import report_missing
from chordate.data.panoptic_index import PanopticIndex, read_panoptic_json
from chordate.data.paths import missing_folder, resolve_path
from chordate.errors import BrokenFile, DataError, MissingFile, UnknownClass
from chordate.registry import DATASETS
from chordate.structures import BITMAP_SIZE, DatasetMeta, ImageInfo, PanopticTargets, Sample
from chordate.structures.panoptic import segment_boxes
from chordate.text import pluralize, printable


@DATASETS.register_module()
class CocoPanoptic(Dataset):
    """Images with the things and stuff of a panoptic JSON file (Kirillov et al. 2019, Panoptic Segmentation).

    The categories' `isthing` decides which classes are things; labels number the things first, then the stuff.

    Transforms receive `segments`, a LabelMap with the segment of each pixel. Boxes, masks and label maps are derived
    from it after the transforms, so they agree in every pixel. A sample then has:

    - `image`: Image uint8 `[3, H, W]` RGB;
    - for the `M` visible things, `boxes` `[M, 4]` float32 x1, y1, x2, y2 in pixels, `labels` `[M]` int64, `crowd` `[M]`
      bool and `masks` `[M, 112, 112]` uint8 (see `box_bitmaps`);
    - `semantic`: LabelMap `[H, W]`, 1 + the label of each pixel, or 0 for pixels without a segment;
    - `slots`: LabelMap `[H, W]`, 1 + the index in `boxes` of the thing at each pixel, or 0 for pixels without a thing;
    - `info`: ImageInfo.

    Crowd segments (`iscrowd`) have their class in `semantic`, as in Detectron2; crowd things are marked in `crowd`, so
    that the losses of instances ignore them.

    Args:
        annotations: the JSON file, relative to `data_root` or absolute.
        images: the folder of the images, relative to `data_root` or absolute.
        segments: the folder of the PNGs, in which a segment's id is R + 256 G + 65536 B; by default `annotations`
            without `.json`, as in COCO.
        data_root, pipeline, seed, meta, skip_broken: see `Dataset`.

    Attributes:
        category_ids: for each label, the category id in the file.
        image_ids: `[len]` int64, see `PanopticIndex`.

    Raises:
        DataError: a file or folder is missing, the JSON file is invalid (see `read_panoptic_json`), or its classes
            differ from those of `meta`.
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
        skip_broken: bool = False,
    ):
        super().__init__(data_root=data_root, pipeline=pipeline, seed=seed, meta=meta, skip_broken=skip_broken)
        self.annotations = resolve_path(data_root, annotations)
        self.images = resolve_path(data_root, images)
        self.segments = self.annotations.with_suffix("") if segments is None else resolve_path(data_root, segments)
        self.index = self.read_index()
        for folder in (self.images, self.segments):
            if not folder.is_dir():
                raise MissingFile(missing_folder(folder))
        self._find_files(data_root)
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

    def _find_files(self, data_root: str | Path) -> None:
        """Find the files of all images. A missing file is an error; with `skip_broken`, its image is left out, and the
        report has the number of such images."""
        for column, folder, kind in ((0, self.images, "image"), (1, self.segments, "panoptic")):
            listing = FileListing(folder, self.annotations)
            columns = self.index.files.T.tolist()
            named = columns[column]
            files = list(map(listing.find, named))
            columns[column] = files
            self.index.files = np.array(columns).T  # a new array, because assigning a longer name would truncate it
            if changed := [name for name, file in zip(named, files) if name != file]:
                count = pluralize(len(changed), "file name")
                line = (
                    f"{self.annotations}: {count} with backslashes, a path to the folder {folder.name}, or another "
                    f"Unicode normal form than the file's, the first: {printable(changed[0])}"
                )
                self.health_report = [*self.health_report, line]
            if kind == "image":
                sizes = list(map(tuple, self.index.sizes.tolist()))
                same = report_duplicate_files(files, sizes, self.index.file_ids, str(self.annotations))
                self.health_report = [*self.health_report, *same]
            missing = np.array([file not in listing for file in files])
            if missing.any():
                line = report_missing(files, missing, folder, data_root, self.skip_broken, kind)
                absent = [f"{folder / file}: no such {kind} file" for file in self.index.files[missing, column]]
                self.health_report, self.left_out = [*self.health_report, line], [*self.left_out, *absent]
                self.index = self.index.select(~missing)

    def read_index(self) -> PanopticIndex:
        """Read the annotation file. Subclasses override this method if their images are named differently."""
        return read_panoptic_json(self.annotations)

    def __len__(self) -> int:
        return len(self.image_ids)

    def read(self, index: int) -> Sample:
        """The sample before its transforms.

        Raises:
            DataError: a file cannot be read, the image and the PNG differ in size, or a segment id occurs only in the
                PNG or only in the JSON file.
        """
        path = self.images / self.index.files[index, 0]
        image = Image(read_image(path, tuple(self.index.sizes[index]), self.channels, self.white_level))
        own = self._rows(index)
        return {
            "image": image,
            "segments": LabelMap(self.read_segments(index)),
            "segment_labels": torch.from_numpy(self.labels[own]),
            "segment_crowd": torch.from_numpy(self.index.crowd[own]),
            "info": ImageInfo(int(self.image_ids[index]), str(path), *image.shape[-2:]),
        }

    def image_path(self, index: int) -> Path:
        return self.images / self.index.files[index, 0]

    def check_files(self, index: int) -> None:
        (height, width), (image, segments) = self.index.sizes[index].tolist(), self.index.files[index]
        size = height, width
        check_image(self.images / image, size, lambda path: read_image(path, size, self.channels, self.white_level))
        check_image(self.segments / segments, size, _read_ids)

    def finish(self, sample: Sample) -> Sample:
        numbers = sample.pop("segments").as_subclass(Tensor).long()
        labels, crowd = sample.pop("segment_labels"), sample.pop("segment_crowd")
        boxes = segment_boxes(numbers, len(labels))
        rows = torch.from_numpy(self.is_thing)[labels] & (boxes[:, 2] > boxes[:, 0])  # visible things
        slots = torch.cat([rows.new_zeros(1, dtype=torch.int16), (rows.cumsum(0) * rows).short()])
        classes = torch.cat([labels.new_zeros(1), labels + 1]).short()
        return {
            **sample,
            "boxes": boxes[rows].float(),
            "labels": labels[rows],
            "crowd": crowd[rows],
            "masks": box_bitmaps(numbers, boxes[rows], rows.nonzero()[:, 0] + 1),
            "semantic": LabelMap(classes[numbers]),
            "slots": LabelMap(slots[numbers]),
        }

    def index_of(self, image_id: int) -> int:
        """The index of the image with the id `image_id`."""
        return int(np.searchsorted(self.image_ids, image_id))

    def id_in_file(self, image_id: int) -> int | str:
        """The id in the JSON file (an integer or a string) of the image with the id `image_id` in the dataset."""
        return self.index.file_ids[self.index_of(image_id)]

    def segments_of(self, image_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """The ground truth of an image at its original size.

        Returns:
            The segment number of each pixel, `[H, W]` int16, 1 … `S`, or 0 for pixels without a segment; the
            segments' labels `[S]` int64; and whether each segment is a crowd, `[S]` bool.
        """
        index = self.index_of(image_id)
        own = self._rows(index)
        crowd = torch.from_numpy(self.index.crowd[own])
        return self.read_segments(index), torch.from_numpy(self.labels[own]), crowd

    def read_segments(self, index: int) -> Tensor:
        """Read the segment number of each pixel, `[H, W]` int16: 1 … `S`, or 0 for pixels without a segment."""
        path = self.segments / self.index.files[index, 1]
        ids = _read_ids(path)
        if ids.shape != tuple(self.index.sizes[index]):
            height, width = self.index.sizes[index].tolist()
            raise DataError(
                f"{path}: {ids.shape[1]}×{ids.shape[0]}, but its image {self.index.files[index, 0]} is {width}×{height}"
            )
        known = np.concatenate([[0], self.index.ids[self._rows(index)]])
        numbers, unknown = segment_numbers(ids, known)
        if len(unknown):
            raise DataError(f"{path}: pixels have the segment id {unknown[0]}, which is not in {self.annotations.name}")
        absent = np.ones(len(known), bool)
        absent[numbers] = False
        if absent[1:].any():
            missing = known[1:][absent[1:]][0]
            raise DataError(f"{self.annotations}: segment {missing} of {path.name} has no pixel in {path}")
        return torch.from_numpy(numbers)

    def check_annotated(self, training: bool) -> None:
        if training and not len(self.index.crowd):
            raise DataError(f"{self.annotations}: no segments, so there is nothing to train on; annotate some images")

    def class_images(self) -> list[NDArray[np.int64]]:
        """For each class, the indices of the images that contain it, for class-balanced sampling."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.index.starts))
        return [np.unique(owner[self.labels == label]) for label in range(len(self.meta.classes))]

    def _rows(self, index: int) -> slice:
        """The slice that selects an image's segments in `self.labels` and in the arrays of `self.index`."""
        return slice(*self.index.starts[index : index + 2].tolist())


def box_bitmaps(numbers: Tensor, boxes: Tensor, own: Tensor) -> Tensor:
    """Masks of segments, sampled on a grid over each segment's box, for `InstanceTargets.masks`.

    Args:
        numbers: `[H, W]` int64, the segment number of each pixel.
        boxes: `[M, 4]` int64 x1, y1, x2, y2 in pixels.
        own: `[M]` int64, the segment number of each box.

    Returns:
        `[M, 112, 112]` uint8: 1 if the center of the grid cell lies in the segment, else 0.
    """
    centers = (torch.arange(BITMAP_SIZE) + 0.5) / BITMAP_SIZE
    x, y = (
        boxes[:, low, None] + (centers * (boxes[:, low + 2] - boxes[:, low])[:, None]).floor().long() for low in (0, 1)
    )
    return (numbers[y[:, :, None], x[:, None]] == own[:, None, None]).byte()


def segment_numbers(ids: NDArray[np.int32], known: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
    """The index in `known` of each pixel's segment id.

    Only the first pixel of each run of equal ids is looked up, since adjacent pixels mostly belong to the same segment.

    Args:
        ids: `[H, W]`, not empty.
        known: `[K]`, ascending.

    Returns:
        The indices `[H, W]`, undefined for unknown ids; and the ids that `known` lacks, ascending.
    """
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    values = flat[starts]
    numbers = np.searchsorted(known, values).clip(max=len(known) - 1).astype(np.int16)
    unknown = np.unique(values[known[numbers] != values])
    return np.repeat(numbers, np.diff(starts, append=len(flat))).reshape(ids.shape), unknown


def _read_ids(path: Path) -> NDArray[np.int32]:
    """The segment ids `[H, W]` of a PNG."""
    data = read_bytes(path, "panoptic")
    check_image_file(path, data)
    image = decode_unchanged(data, path)
    if image is None:
        raise BrokenFile(undecodable(data, path))
    if image.ndim != 3 or image.dtype != np.uint8:
        raise DataError(f"{path}: not an RGB PNG; a segment's id must be its color, R + 256 G + 65536 B")
    # The bytes R, G, B, 0 are the id as a little-endian integer.
    bytes_ = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2RGBA)
    bytes_[..., 3] = 0
    ids: NDArray[np.int32] = bytes_.view("<i4")[..., 0]
    return ids


def _check_same_classes(path: Path, own: DatasetMeta, model: DatasetMeta) -> None:
    """Check that the file and the model have the same classes, and agree on which classes are stuff.

    Raises:
        UnknownClass: a class is only in the file or only in the model, or a thing in one and stuff in the other.
    """
    if differing := sorted(set(own.classes) ^ set(model.classes)):
        holder = "the model" if differing[0] in model.classes else "this file"
        raise UnknownClass(f"{path}: the class {printable(differing[0])} is only in {holder}")
    if differing := sorted(set(own.stuff) ^ set(model.stuff)):
        kind = "stuff" if differing[0] in own.stuff else "a thing"
        raise UnknownClass(f"{path}: {printable(differing[0])} is {kind} here, but not in the model (see isthing)")
