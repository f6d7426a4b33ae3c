"""YOLO folders (one text file of relative boxes or polygons per image), read as COCO annotations.

hotcoco's converter is not used, because it requires the class names in the label folder, drops the file extensions of
images, skips images without a label file, and does not read polygons.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hotcoco

from chordate.data.coco import CocoDataset
from chordate.data.file_ids import PLACE
from chordate.data.image_files import list_files, list_images
from chordate.data.image_headers import displayed_size
from chordate.data.missing_images import describe_broken
from chordate.data.paths import resolve_path
from chordate.data.text_lists import read_text
from chordate.data.yolo_data import label_file, read_names, split_images
from chordate.errors import BrokenFile, ConfigError, DataError
from chordate.registry import DATASETS
from chordate.text import first_names, pluralize

_DECIMALS = re.compile(r"[-+.\deE\s]*", re.ASCII)
MAX_FRACTION = 2  # larger values are pixels, not fractions; values from 1 to 2 lie outside the image


@DATASETS.register_module()
class YoloDataset(CocoDataset):
    """A YOLO dataset: images `images/x.jpg`, and labels `labels/x.txt` with one instance per line.

    A line is `class cx cy w h` (box) or `class x1 y1 x2 y2 x3 y3 …` (polygon).

    Coordinates are fractions of the displayed image's width and height (after EXIF rotation). An image without a label
    file has no instances. Category ids are 1, 2, … in the order of the class names. Subfolders are searched.

    Give either `data` and `split`, or `images` and `names`.

    Args:
        images: the folder of the images, relative to `data_root` or absolute.
        labels: the folder of the labels, relative to `data_root` or absolute. By default, the folder of the images with
            the last "images" in its path replaced by "labels"; without an "images" in its path, that folder itself.
        names: the class names, or a YAML file with an entry `names`, or a text file with a name per line.
        data: a `data.yaml` as Ultralytics and Roboflow write it, with image folders or lists and class names.
        split: the split of `data`: "train", "val" or "test".
        settings: arguments of CocoDataset, except `annotations` and `images`.

    Raises:
        ConfigError: the arguments are neither `data` and `split`, nor `images` and `names`.
        DataError: a folder or file is missing or a label file is invalid, or as for `CocoDataset`.
    """

    not_inherited = ("images", "annotations")

    def __init__(
        self,
        images: str | Path | None = None,
        labels: str | Path | None = None,
        names: str | Path | Sequence[str] | None = None,
        *,
        data: str | Path | None = None,
        split: str | None = None,
        **settings: Any,
    ):
        root = settings.get("data_root", ".")
        self.data, self.split = None if data is None else resolve_path(root, data).absolute(), split
        self.skips_broken = settings.get("skip_broken", False)
        if self.data is not None:
            if split is None or images is not None or labels is not None:
                raise ConfigError("YoloDataset: data= needs split=, and excludes images= and labels=")
            names = self.data if names is None else names
            folder = _common_folder(split_images(self.data, split))
            label_folder = _common_folder([label_file(folder / "x.jpg")])
        elif images is None or names is None or split is not None:
            raise ConfigError("YoloDataset: give images= and names=, or data= and split=")
        else:
            folder = resolve_path(root, images).absolute()
            label_folder = label_file(folder / "x").parent if labels is None else resolve_path(root, labels).absolute()
        self.names = read_names(resolve_path(root, names)) if isinstance(names, str | Path) else list(names)
        self.notes: list[str] = []
        super().__init__(label_folder, folder, **settings)
        self.health_report = [*self.health_report, *self.notes]

    def _open(self) -> hotcoco.COCO:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        broken: list[str] = []
        self.notes = []
        pairs = self._pairs()
        for path, labels in pairs:
            try:
                height, width = displayed_size(path)
            except BrokenFile as error:
                if not self.skips_broken:
                    raise
                broken.append(str(error))
                continue
            name = path.relative_to(self.images).as_posix()
            images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
            if labels.is_file():
                for line, text in enumerate(read_text(labels, "label").splitlines(), start=1):
                    if text.strip():
                        annotation = _annotation(text, width, height, len(self.names), f"{labels}:{line}")
                        place = f"{os.path.relpath(labels, self.annotations)}:{line}"
                        ids = {"id": len(annotations) + 1, "image_id": len(images), PLACE: place}
                        annotations.append({**ids, **annotation})
        self.left_out = broken
        self.notes += describe_broken(broken)
        if pairs and not any(labels.is_file() for _, labels in pairs):
            self.notes.append(
                f"{self.annotations}: no image has a label file; that of the first would be {pairs[0][1]}"
            )
        self._note_unused({labels for _, labels in pairs})
        categories = [{"id": number, "name": name} for number, name in enumerate(self.names, start=1)]
        return hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})

    def id_in_file(self, image_id: int) -> str:
        name: str = self.coco.load_imgs([image_id])[0]["file_name"]
        return name

    def _pairs(self) -> list[tuple[Path, Path]]:
        """Each image with its label file, which may not exist."""
        if self.data is not None and self.split is not None:
            pairs = [(image, label_file(image)) for image in split_images(self.data, self.split)]
        else:
            for folder, what in ((self.annotations, "label"), (self.images, "image")):
                if not folder.is_dir():
                    raise DataError(f"{folder}: no such {what} folder; correct images= or labels= of YoloDataset")
            names = list_images(self.images)
            pairs = [(self.images / name, (self.annotations / name).with_suffix(".txt")) for name in names]
        if pairs and pairs[0][0].is_file() and not any(labels.parent.is_dir() for _, labels in pairs):
            raise DataError(
                f"{pairs[0][1].parent}: no such label folder; it must contain the label file of {pairs[0][0]}"
            )
        return pairs

    def _note_unused(self, used: set[Path]) -> None:
        """Add a line to `notes`, which are logged, if there are label files without an image."""
        folders = {self.annotations} if self.data is None else {labels.parent for labels in used}
        label_files = {folder / name for folder in folders for name in list_files(folder, ".txt")}
        unused = sorted(str(p.name) for p in label_files - used if p.name not in ("classes.txt", "names.txt"))
        if unused:
            count = pluralize(len(unused), "label file")
            self.notes.append(f"{self.annotations}: {count} without image left out ({first_names(unused)})")


def _common_folder(images: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([image.parent for image in images]))


def _annotation(text: str, width: int, height: int, classes: int, place: str) -> dict[str, Any]:
    """Convert one line of a label file to a COCO annotation; `place` is for messages."""
    try:
        label, *numbers = [float(word) for word in text.split()]
    except ValueError as error:
        raise DataError(f"{place}: {error}; a line is `class cx cy w h` or `class x1 y1 x2 y2 …`") from error
    if not (label.is_integer() and 0 <= label < classes):
        raise DataError(f"{place}: class {label:g} is not one of the {classes} classes (0 … {classes - 1})")
    for number in numbers:
        if not abs(number) <= MAX_FRACTION:  # also true for NaN
            raise DataError(
                f"{place}: {number:g} is not a fraction of the image's size; YOLO's coordinates are 0 … 1: divide "
                f"pixels by the width ({width}) and the height ({height})"
            )
    if not _DECIMALS.fullmatch(text):  # Python also reads 0_1 and digits of other scripts
        raise DataError(
            f"{place}: the line must have only decimal numbers; a line is `class cx cy w h` or `class x1 y1 x2 y2 …`"
        )
    result: dict[str, Any] = {"category_id": int(label) + 1, "iscrowd": 0}
    if len(numbers) == 4:
        x, y, w, h = (value * side for value, side in zip(numbers, (width, height, width, height)))
        return {**result, "bbox": [x - w / 2, y - h / 2, w, h], "area": w * h}
    if len(numbers) < 6 or len(numbers) % 2:
        raise DataError(f"{place}: {len(numbers)} numbers after the class; a box has 4, a polygon 3 or more pairs")
    xs, ys = [x * width for x in numbers[0::2]], [y * height for y in numbers[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    outline = [value for point in zip(xs, ys) for value in point]
    return {**result, "bbox": box, "area": box[2] * box[3], "segmentation": [outline]}
