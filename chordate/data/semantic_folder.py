"""SemanticFolder: images, and for each a PNG with the class of every pixel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import Image

from chordate.arguments import Names, NonNegativeInt
from chordate.data.coco_annotations import resolve_path
from chordate.data.dataset import Dataset, model_classes
from chordate.data.image_io import missing_file, read_image
from chordate.data.label_map import LabelMap, label_map
from chordate.errors import DataError, near_names
from chordate.registry import DATASETS
from chordate.structures import DatasetMeta, ImageInfo, Sample
from chordate.structures.semantic import SemanticTargets

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
Color = tuple[int, int, int]
log = logging.getLogger("chordate")


@DATASETS.register_module()
class SemanticFolder(Dataset):
    """Images in a folder, and label images in another one: `train/a.jpg` and `trainannot/a.png`, at any depth.

    A label image has one channel (or a palette) of class ids; with `palette`, RGB colors instead. Pixels of other
    values are ignored: no loss, no evaluation.

    A sample has `image` Image uint8 `[3, H, W]` RGB, `labels` LabelMap `[H, W]`, and `info` ImageInfo.

    Args:
        images: the folder of the images, relative to `data_root` or absolute.
        labels: the folder of the label images.
        classes: the names by label.
        ids: the pixel value of each class; 0, 1, … by default.
        ignored_ids: further values that occur and are ignored; 255 by default. A value that is neither a class nor
            ignored is an error.
        palette: the color RGB of each class, for label images in RGB; also the color that it is drawn with.
        image_suffix, label_suffix: what names of images and label images end with after the part that they share
            (`"_leftImg8bit.png"`, `"_gtFine_labelIds.png"`).
        files: a text file with the shared part of each image's name, one a line, relative to `data_root`; None for all
            images of the folder.
        data_root, pipeline, seed, meta: see `Dataset`.

    Raises:
        DataError: a folder or a label image does not exist, or there are no images.
    """

    target_type = SemanticTargets
    default_metric = "SemanticMetric"

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        *,
        classes: Names,
        ids: Sequence[NonNegativeInt] | None = None,
        ignored_ids: Sequence[NonNegativeInt] = (255,),
        palette: Sequence[Color] | None = None,
        image_suffix: str | None = None,
        label_suffix: str = ".png",
        files: str | Path | None = None,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        seed: int = 0,
        meta: DatasetMeta | None = None,
    ):
        super().__init__(data_root=data_root, pipeline=pipeline, seed=seed, meta=meta)
        names = tuple(model_classes(classes, meta) or ())
        for setting, values in (("ids", ids), ("palette", palette)):
            if values is not None and len(values) != len(classes):
                raise DataError(f"{setting} has {len(values)} entries for {len(classes)} classes; give one per class")
        order = [list(classes).index(name) for name in names]  # of a model with another order of the classes
        if meta is None:
            self.meta = DatasetMeta(names, palette=None if palette is None else tuple(palette))
        self.palette = None if palette is None else np.array(palette, np.uint8)[order]
        self.lookup = _lookup([(ids or range(len(classes)))[number] for number in order], ignored_ids)
        self.images, self.labels = resolve_path(data_root, images), resolve_path(data_root, labels)
        self.pairs = self._pairs(image_suffix, label_suffix, None if files is None else resolve_path(data_root, files))

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Sample:
        """The sample before its transforms.

        Raises:
            DataError: a file cannot be read, the two have different sizes, or a pixel has an unknown value.
        """
        path, label_path = self.pairs[index]
        image = Image(read_image(path))
        labels = self.read_labels(label_path)
        if labels.shape != image.shape[-2:]:
            raise DataError(
                f"{label_path}: {labels.shape[1]}×{labels.shape[0]}, but its image {path.name} is "
                f"{image.shape[-1]}×{image.shape[-2]}"
            )
        return {"image": image, "labels": labels, "info": ImageInfo(index, str(path), *image.shape[-2:])}

    def labels_of(self, index: int) -> Tensor:
        """The labels `[H, W]` int16 of an image at its original size, `IGNORED` where there is no class."""
        return self.read_labels(self.pairs[index][1]).as_subclass(Tensor) - 1

    def read_labels(self, path: Path) -> LabelMap:
        """The labels in a file."""
        data = np.frombuffer(path.read_bytes(), np.uint8)
        if self.palette is not None:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None
            if image is None:
                raise DataError(f"{path}: not a readable label image; copy or download it again")
            return self._of_colors(image.astype(np.uint8, copy=False))
        ids = read_ids(path).astype(np.int64)
        labels = self.lookup[np.minimum(ids, len(self.lookup) - 1)]
        if (labels == UNKNOWN).any():
            value = int(ids[labels == UNKNOWN][0])
            raise DataError(
                f"{path}: pixels have the value {value}, which is no class; add it to ids or to ignored_ids"
            )
        return label_map(torch.from_numpy(labels), torch.from_numpy(labels < 0))

    def _of_colors(self, image: NDArray[np.uint8]) -> LabelMap:
        """The labels of an RGB image; colors outside the palette are ignored."""
        assert self.palette is not None
        codes = image.astype(np.int32) @ np.array([65536, 256, 1])
        known = self.palette.astype(np.int32) @ np.array([65536, 256, 1])
        order = np.argsort(known)
        position = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        labels = order[position]
        return label_map(torch.from_numpy(labels), torch.from_numpy(known[labels] != codes))

    def _pairs(self, image_suffix: str | None, label_suffix: str, files: Path | None) -> list[tuple[Path, Path]]:
        """The file of each image and of its labels."""
        for folder in (self.images, self.labels):
            if not folder.is_dir():
                raise DataError(missing_file(folder, "data").replace("data file", "folder"))
        suffixes = SUFFIXES if image_suffix is None else (image_suffix,)
        found: dict[str, Path] = {}
        for path in sorted(self.images.rglob("*")):
            ending = next((end for end in suffixes if path.name.lower().endswith(end.lower())), None)
            if ending and path.is_file():
                found[path.relative_to(self.images).as_posix()[: -len(ending)]] = path
        names = list(found)
        if files is not None:
            names = [line.strip() for line in files.read_text(encoding="utf-8").splitlines() if line.strip()]
            if missing := [name for name in names if name not in found]:
                close = [f"; did you mean {name}?" for name in near_names(missing[0], found, 1)]
                raise DataError(f"{files}: no image {missing[0]} in {self.images}{''.join(close)}")
        if not names:
            raise DataError(f"{self.images}: no images ({', '.join(suffixes)})")
        pairs = [(found[name], self.labels / f"{name}{label_suffix}") for name in names]
        without = [label for _, label in pairs if not label.is_file()]
        if without:
            raise DataError(f"{missing_file(without[0], 'label')} ({len(without)} of {len(pairs)} images have none)")
        return pairs


UNKNOWN = -2


def _lookup(ids: Sequence[int], ignored_ids: Sequence[int]) -> NDArray[np.int16]:
    """The label of each pixel value: -1 for ignored ones, `UNKNOWN` for others, as the last entry is."""
    table = np.full(max(*ids, *ignored_ids, 0) + 2, UNKNOWN, np.int16)
    table[list(ignored_ids)] = -1
    table[list(ids)] = np.arange(len(ids))
    return table


def read_ids(path: Path) -> NDArray[np.integer[Any]]:
    """The class ids `[H, W]` of a label image: its gray values, or the indices of its palette.

    Raises:
        DataError: it cannot be read, or has colors instead of ids.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            if image.mode in ("RGB", "RGBA", "CMYK"):
                raise DataError(f"{path}: a label image in color; set palette to the color of each class")
            return np.array(image.convert("L") if image.mode in ("1", "LA") else image)
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable label image: {error}") from error
