"""Reads class names, image lists, and the `data.yaml` of Ultralytics and Roboflow; finds the label file of an image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from chordate.data.file_listing import ABSOLUTE, FileListing
from chordate.data.image_files import list_images
from chordate.data.paths import missing_folder
from chordate.data.text_lists import read_lines, read_text
from chordate.errors import DataError, MissingFile, unknown
from chordate.text import one_line

SPLITS = ("train", "val", "test")


def read_names(file: Path) -> list[str]:
    """Read class names: the entry `names` of a YAML file, or a text file (`.txt` or `.names`) with a name per line.

    Raises:
        DataError: the file is missing or invalid, or has no names.
    """
    if file.suffix.lower() in (".txt", ".names"):
        names = read_lines(file, "class name")
    else:
        content = _read_yaml(file)
        names = _names(content, file)
    if not names:
        raise DataError(f"{file}: the file has no class names; add them")
    return names


def split_images(file: Path, split: str) -> list[Path]:
    """The paths of the images of a split of a `data.yaml`; listed images may be missing.

    The entry of the split is a folder, a text file with one image per line (relative to the text file), or a list of
    these. Folders and text files are relative to the entry `path`. Backslashes are read as slashes.

    Datasets are often moved after export. Therefore, folders and text files are also searched in the YAML file's own
    folder. If a text file lists an absolute path that does not exist, its leading folders are removed one by one until
    the rest is a file in the folder of the text file or of the YAML file. The file name without any folder is never
    tried, because files in different folders may have the same name.

    Raises:
        DataError: there is no such split, a folder or text file is missing, the split has no images, or the labels are
            for pose estimation.
    """
    content = _read_yaml(file)
    if "kpt_shape" in content:
        raise DataError(f"{file}: pose labels (kpt_shape) are not supported; export the data in COCO's format")
    splits = split_entries(content)
    if split not in splits:
        raise DataError(f"{file}: {unknown('split', split, splits)}")
    entries = splits[split] if isinstance(splits[split], list) else [splits[split]]
    path = content.get("path", "")
    if not all(isinstance(entry, str) for entry in (path, *entries)):
        raise DataError(f"{file}: the entries path and {split} must be paths; {split} may also be a list of paths")
    images: list[Path] = []
    for entry in entries:
        where = _locate(entry.replace("\\", "/"), path.replace("\\", "/"), file)
        if where.is_dir():
            images += [where / name for name in list_images(where)]
        else:
            listings = [FileListing(folder) for folder in (where.parent, file.parent)]
            images += [_listed(line, listings) for line in read_lines(where, "image list")]
    if not images:
        raise DataError(f"{file}: the split {split} has no images")
    return list(dict.fromkeys(images))


def split_entries(content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the splits of a `data.yaml`. "validation" and "valid" are other names of "val"."""
    entries = {name: content.get(name) for name in SPLITS}
    entries["val"] = entries["val"] or content.get("validation") or content.get("valid")
    return {name: entry for name, entry in entries.items() if entry}


def label_file(image: Path) -> Path:
    """The path of the label file of an image: the last folder "images" in the image's path is replaced by "labels" (if
    there is one), and the suffix by ".txt"."""
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
        raise DataError(
            f'{file}: needs an entry "names"; a file with one class per line must have the suffix .txt or .names'
        )
    return content


def _names(content: Mapping[str, Any], file: Path) -> list[str]:
    names = content.get("names")
    try:
        if isinstance(names, Mapping):
            by_number = {int(number): name for number, name in names.items()}
            names = [by_number[number] for number in range(len(names))]
        if not isinstance(names, list):
            raise ValueError('the entry "names"')
        if wrong := [name for name in names if not isinstance(name, str) or not name]:
            raise ValueError(f"a name that is {'empty' if wrong[0] == '' else f'a {type(wrong[0]).__name__}'}")
    except (KeyError, ValueError) as error:
        raise DataError(
            f'{file}: needs a list "names" of class names, or a mapping from 0, 1, 2 … to names without gaps; '
            f"wrong or missing: {error}"
        ) from error
    count = content.get("nc", len(names))
    if str(count) != str(len(names)):
        raise DataError(f"{file}: nc is {count}, but there are {len(names)} names; correct one of them")
    return list(names)


def _locate(entry: str, path: str, file: Path) -> Path:
    """The existing folder or text file that an entry names, relative to `path` or to the YAML file's folder; in each,
    the entry is tried with and without its leading `../`."""
    here = file.parent
    bases = [here / path, here]
    candidates = [base / text for base in bases for text in (entry, entry.removeprefix("../"))]
    existing = next((candidate for candidate in candidates if candidate.exists()), None)
    if existing is None:
        raise MissingFile(missing_folder(candidates[0], "image"))
    return Path(os.path.normpath(existing))


def _listed(line: str, listings: Sequence[FileListing]) -> Path:
    """The image that a line of a text file names, see `split_images`; relative names are those in `listings[0]`."""
    name = line.replace("\\", "/")
    parts = Path(name).parts
    names = [str(Path(*parts[count:])) for count in range(1, len(parts) - 1)] if ABSOLUTE.match(name) else []
    tried = [(listings[0], name), *((listing, other) for listing in listings for other in names)]
    listing, path = next(((listing, other) for listing, other in tried if other in listing), tried[0])
    return Path(os.path.normpath(listing.folder / path))
