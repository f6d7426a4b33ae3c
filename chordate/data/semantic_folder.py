"""SemanticFolder: images in one folder, and a label image of each image in another folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chordate.arguments import Names
from chordate.data.image_files import list_files, list_images
from chordate.data.image_io import SUFFIXES
from chordate.data.paths import missing_file, missing_folder, resolve_path
from chordate.data.semantic_dataset import SemanticDataset
from chordate.data.text_lists import read_lines
from chordate.errors import DataError, MissingFile, near_names
from chordate.registry import DATASETS


@DATASETS.register_module()
class SemanticFolder(SemanticDataset):
    """Images in one folder and their label images in another, such as `train/a.jpg` and `trainannot/a.png`; subfolders
    are searched.

    Args:
        images: the folder of the images, relative to `data_root` or absolute.
        labels: the folder of the label images, relative to `data_root` or absolute.
        classes: class names; the index of a name is the label.
        image_suffix, label_suffix: the ends of the file names of images and label images, after the part that both
            share (`"_leftImg8bit.png"`, `"_gtFine_labelIds.png"`). By default, images have any of `SUFFIXES`.
        files: a text file that lists the images to use, relative to `data_root` or absolute. Each line is the path of
            an image in the folder `images`, without the suffix. None uses all images in the folder.
        settings: the other arguments of `SemanticDataset`: ids, ignored_ids, palette, background, data_root, pipeline,
            seed, meta, skip_broken.

    Raises:
        DataError: a folder, a label image or the list `files` does not exist, there are no images, two images have the
            same label file, `files` lists an unknown image, or one of the errors of `SemanticDataset`.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        *,
        classes: Names,
        image_suffix: str | None = None,
        label_suffix: str = ".png",
        files: str | Path | None = None,
        **settings: Any,
    ):
        root = settings.get("data_root", ".")
        image_folder, label_folder = resolve_path(root, images), resolve_path(root, labels)
        found = find_images(image_folder, SUFFIXES if image_suffix is None else (image_suffix,))
        names = list(found) if files is None else listed_names(resolve_path(root, files), found, image_folder)
        pairs = [(found[name], label_folder / f"{name}{label_suffix}") for name in names]
        check_label_files(pairs, label_folder)
        super().__init__(pairs, classes=classes, **settings)
        if files is None:
            self.health_report = [*self.health_report, *labels_without_image(label_folder, label_suffix, found)]


def find_images(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Find the images in a folder and its subfolders. Returns a sorted dict from the path in the folder (without
    suffix) to the file.

    Raises:
        DataError: the folder does not exist, has no images, or has two images that differ only in their suffix.
    """
    if not folder.is_dir():
        raise MissingFile(missing_folder(folder))
    images: dict[str, Path] = {}
    for path in list_images(folder):
        ending = next((end for end in suffixes if path.lower().endswith(end.lower())), None)
        if ending:
            name = path[: -len(ending)]
            if name in images:
                raise DataError(f"{images[name]} and {path} have the same label file; remove one, or set image_suffix")
            images[name] = folder / path
    if not images:
        raise DataError(f"{folder}: no file in this folder ends with {' or '.join(suffixes)}, so there are no images")
    return images


def listed_names(file: Path, images: Mapping[str, Path], folder: Path) -> list[str]:
    """Read the image names in a text file with one name per line: paths in `folder` without suffix.

    Raises:
        DataError: the file cannot be read, lists no images, or has a name that is not in `images`.
    """
    names = read_lines(file, "image list")
    if not names:
        raise DataError(f"{file}: lists no images; write the name of an image, without suffix, on each line")
    if missing := [name for name in names if name not in images]:
        close = [f"; did you mean {name}?" for name in near_names(missing[0], images, 1)]
        raise DataError(f"{file}: the listed image {missing[0]} is not in {folder}{''.join(close)}")
    return names


def check_label_files(pairs: Sequence[tuple[Path, Path]], folder: Path) -> None:
    """Raise DataError if a label file or the folder of the label files does not exist."""
    if not folder.is_dir():
        raise MissingFile(missing_folder(folder))
    without = [label for _, label in pairs if not label.is_file()]
    if without:
        raise DataError(f"{missing_file(without[0], 'label')} ({len(without)} of {len(pairs)} images have none)")


def labels_without_image(folder: Path, suffix: str, images: Mapping[str, Path]) -> list[str]:
    """One line for the health report if label files have no image in `images`, which is keyed by path without suffix;
    else an empty list."""
    labels = list_files(folder, suffix.lower())
    without = [label for label in labels if label[: -len(suffix)] not in images]
    if not without:
        return []
    return [f"{folder}: {len(without)} of {len(labels)} label files have no image, and are not used: {without[0]}"]
