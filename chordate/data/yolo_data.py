"""Reads the other files of YOLO datasets: class names, image lists, and `data.yaml` of Ultralytics and Roboflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from chordate.data.image_files import list_images
from chordate.data.paths import missing_folder
from chordate.data.text_lists import read_lines, read_text
from chordate.errors import DataError, MissingFile, unknown
from chordate.text import one_line

SPLITS = ("train", "val", "test")


def read_names(file: Path) -> list[str]:
    """Read class names: the entry `names` of a YAML file, or a text file (`names.txt`) with a name per line.

    Raises:
        DataError: the file is missing or has no names.
    """
    if file.suffix.lower() in (".txt", ".names"):
        names = read_lines(file, "class name")
    else:
        content = _read_yaml(file)
        names = _names(content, file)
    if not names:
        raise DataError(f"{file}: no class names")
    return names


def split_images(file: Path, split: str) -> list[Path]:
    """The images of a split of a `data.yaml`.

    The entry of the split is a folder, a text file with one image per line, or a list of these, relative to the entry
    `path`. Since datasets are often moved after export, the YAML file's own folder is tried as well.

    Raises:
        DataError: there is no such split, or a folder, a list or a listed image is missing.
    """
    content = _read_yaml(file)
    if "kpt_shape" in content:
        raise DataError(f"{file}: pose labels (kpt_shape) are not supported; export the data in COCO's format")
    splits = [name for name in SPLITS if content.get(name)]
    if split not in splits:
        raise DataError(f"{file}: {unknown('split', split, splits)}")
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    path = content.get("path", "")
    if not all(isinstance(entry, str) for entry in (path, *entries)):
        raise DataError(f"{file}: path and {split} must be paths, or {split} a list of paths")
    images: list[Path] = []
    for entry in entries:
        where = _locate(entry, path, file)
        if where.is_dir():
            images += [where / name for name in list_images(where)]
        else:
            images += [_listed(line, where) for line in read_lines(where, "image list")]
    if not images:
        raise DataError(f"{file}: the split {split} has no images")
    return list(dict.fromkeys(images))


def label_file(image: Path) -> Path:
    """The label file of an image: in the folder `labels` next to the last folder `images` in the path."""
    parts = list(image.parent.parts)
    for number in range(len(parts) - 1, 0, -1):
        if parts[number] == "images":
            parts[number] = "labels"
            break
    return Path(*parts) / f"{image.stem}.txt"


def _read_yaml(file: Path) -> Mapping[str, Any]:
    """Read a YAML mapping. Scalars stay text: `no` is a name, not False."""
    text = read_text(file, "class name")
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file}: not YAML: {one_line(error)}") from error
    if not isinstance(content, Mapping):
        raise DataError(f'{file}: needs an entry "names"; a file with one class per line must be called names.txt')
    return content


def _names(content: Mapping[str, Any], file: Path) -> list[str]:
    names = content.get("names")
    try:
        if isinstance(names, Mapping):
            by_number = {int(number): name for number, name in names.items()}
            names = [by_number[number] for number in range(len(names))]
        if not isinstance(names, list):
            raise ValueError("it must be a list of strings, or a mapping from 0, 1, 2 … to strings")
        if wrong := [name for name in names if not isinstance(name, str) or not name]:
            raise ValueError(f"one of them is {'empty' if wrong[0] == '' else f'a {type(wrong[0]).__name__}'}")
    except (KeyError, ValueError) as error:
        raise DataError(f'{file}: needs a list "names" of class names without gaps: {error}') from error
    count = content.get("nc", len(names))
    if str(count) != str(len(names)):
        raise DataError(f"{file}: nc is {count}, but there are {len(names)} names; correct one of them")
    return list(names)


def _locate(entry: str, path: str, file: Path) -> Path:
    """The folder or list that an entry refers to; tried relative to `path`, then relative to the YAML file's folder."""
    here = file.parent
    bases = [here / path, here]
    candidates = [base / text for base in bases for text in (entry, entry.removeprefix("../"))]
    existing = next((candidate for candidate in candidates if candidate.exists()), None)
    if existing is None:
        raise MissingFile(missing_folder(candidates[0], "image"))
    return Path(os.path.normpath(existing))


def _listed(line: str, file: Path) -> Path:
    path = file.parent / line.replace("\\", "/")
    return Path(os.path.normpath(path))
