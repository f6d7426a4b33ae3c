"""Pascal VOC 2012 for semantic segmentation, with the additional labels of SBD (Hariharan et al. 2011)."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from chordate.data.label_encoding import BACKGROUND
from chordate.data.label_files import LabelPixels, read_label_image
from chordate.data.paths import missing_folder, resolve_path
from chordate.data.semantic_dataset import SemanticDataset
from chordate.data.semantic_folder import check_label_files, find_images, listed_names
from chordate.errors import DataError
from chordate.registry import DATASETS

# Name and color of each class; the index is the pixel value. 255, the border of objects, is ignored.
# Source: VOClabelcolormap.m in VOC's devkit.
_ROWS = (
    (BACKGROUND, (0, 0, 0)),
    ("aeroplane", (128, 0, 0)),
    ("bicycle", (0, 128, 0)),
    ("bird", (128, 128, 0)),
    ("boat", (0, 0, 128)),
    ("bottle", (128, 0, 128)),
    ("bus", (0, 128, 128)),
    ("car", (128, 128, 128)),
    ("cat", (64, 0, 0)),
    ("chair", (192, 0, 0)),
    ("cow", (64, 128, 0)),
    ("diningtable", (192, 128, 0)),
    ("dog", (64, 0, 128)),
    ("horse", (192, 0, 128)),
    ("motorbike", (64, 128, 128)),
    ("person", (192, 128, 128)),
    ("pottedplant", (0, 64, 0)),
    ("sheep", (128, 64, 0)),
    ("sofa", (0, 192, 0)),
    ("train", (128, 192, 0)),
    ("tvmonitor", (0, 64, 128)),
)
VOC_SEMANTIC_CLASSES, VOC_PALETTE = zip(*_ROWS)


@DATASETS.register_module()
class VocSemantic(SemanticDataset):
    """Reads images from `JPEGImages/`, labels from `SegmentationClass/`, and the names of each split from
    `ImageSets/Segmentation/` (Everingham et al. 2010).

    Papers train on "train_aug", 10,582 images: VOC's training images, and all images that SBD labels except VOC's
    validation images. VOC's training images keep VOC's labels. The labels of the other images are read from PNGs in the
    folder `SegmentationClassAug` if it exists, else from SBD's `cls/*.mat`.

    Args:
        split: "train", "val", "trainval" or "train_aug".
        folder: contains VOC's folders; relative to `data_root` or absolute.
        sbd: SBD's folder, which contains `cls`; used for "train_aug"; relative to `data_root` or absolute.
        settings: data_root, pipeline, seed, meta: see `Dataset`.

    Raises:
        DataError: files are missing, or SBD's files must be read and scipy is not installed.
    """

    def __init__(
        self,
        split: Literal["train", "val", "trainval", "train_aug"],
        folder: str | Path = "VOC2012",
        sbd: str | Path = "benchmark_RELEASE/dataset",
        **settings: Any,
    ):
        data_root = settings.get("data_root", ".")
        root, sbd = resolve_path(data_root, folder), resolve_path(data_root, sbd)
        images, labels = find_images(root / "JPEGImages", [".jpg"]), root / "SegmentationClass"

        def names(name: str) -> list[str]:
            return listed_names(root / "ImageSets" / "Segmentation" / f"{name}.txt", images, root / "JPEGImages")

        files = {name: labels / f"{name}.png" for name in names("train" if split == "train_aug" else split)}
        if split == "train_aug":
            validation = set(names("val"))
            more = {path.stem: path for path in _extended_labels(root / "SegmentationClassAug", sbd / "cls")}
            files = {name: path for name, path in sorted((more | files).items()) if name not in validation}
        if missing := [name for name in files if name not in images]:
            raise DataError(f"{files[missing[0]]}: its image {missing[0]}.jpg is not in {root / 'JPEGImages'}")
        pairs = [(images[name], path) for name, path in files.items()]
        check_label_files(pairs, labels)
        super().__init__(pairs, classes=VOC_SEMANTIC_CLASSES, palette=VOC_PALETTE, **settings)

    def read_pixels(self, path: Path) -> LabelPixels:
        return read_sbd(path) if path.suffix == ".mat" else read_label_image(path)


def _extended_labels(pngs: Path, mats: Path) -> list[Path]:
    """The label files for train_aug: the PNGs if their folder exists, else SBD's .mat files."""
    if pngs.is_dir():
        return sorted(pngs.glob("*.png"))
    if not mats.is_dir():
        raise DataError(f"{missing_folder(mats)}; train_aug needs the label files of SBD, or PNGs in {pngs}")
    return sorted(mats.glob("*.mat"))


def read_sbd(path: Path) -> LabelPixels:
    """Read the class ids `[H, W]` uint8 from one of SBD's files `cls/*.mat`.

    Raises:
        DataError: scipy is not installed, or the file is not one of SBD's.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DataError(f"{path}: reading SBD needs scipy; pip install scipy") from error
    try:
        return np.asarray(loadmat(str(path))["GTcls"][0, 0]["Segmentation"], np.uint8)
    except (MatReadError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: not a label file of SBD ({type(error).__name__}: {error})") from error
