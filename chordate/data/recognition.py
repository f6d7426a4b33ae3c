"""Recognizes the format of a dataset by its files, for `chordate check DATA`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chordate.data.image_files import is_hidden, is_image
from chordate.errors import DataError
from chordate.text import first_names, pluralize

DEPTH = 3  # levels of subfolders that are searched
MAX_FOLDERS = 2000
SPLITS = ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")


@dataclass(frozen=True)
class FoundSet:
    """One recognized dataset, such as the training images.

    Attributes:
        name: name of the dataset in messages.
        settings: config of the dataset; paths are relative to `Recognition.root`, or to the setting `folder` if there
            is one.
        optional: further settings that the files allow, such as `masks=True`.
    """

    name: str
    settings: Mapping[str, Any]
    optional: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recognition:
    """The recognized format and datasets of a folder or file.

    Attributes:
        kind: the format, and the files by which it was recognized.
        root: the folder that the paths in the settings are relative to.
        sets: the datasets; `recognize` sorts them by split, training data first.
    """

    kind: str
    root: Path
    sets: Sequence[FoundSet]

    def describe(self) -> str:
        """One line with the format and the datasets."""
        return f"{self.kind}; {pluralize(len(self.sets), 'set')}: {', '.join(found.name for found in self.sets)}"


@dataclass
class Folder:
    """A folder with the names of the files in it."""

    path: Path
    files: list[str]

    @property
    def images(self) -> list[str]:
        return [name for name in self.files if is_image(name)]


Recognizer = Callable[[Path], Recognition | None]


def recognize(path: Path, recognizers: Mapping[str, Recognizer]) -> Recognition:
    """Recognize the format of the data in a folder or file.

    Args:
        path: a folder, a zip, or a file such as `data.yaml`.
        recognizers: the recognizers in the order in which they are tried; the first that recognizes the data decides.
            Each key is a phrase that describes the files that the recognizer looks for.

    Raises:
        DataError: no recognizer recognizes the data; the message names some of the folder's content, and the files
            that were looked for.
    """
    for recognizer in recognizers.values():
        recognition = recognizer(path)
        if recognition is not None:
            order = sorted(recognition.sets, key=lambda result: (split_rank(result.name), result.name))
            return Recognition(recognition.kind, recognition.root, order)
    content = f"the folder has {_content(path)}" if path.is_dir() else "the file is of another kind"
    if path.suffix.lower() == ".zip":
        content = "in a zip, only class folders are recognized, so unpack it"
    raise DataError(f"{path}: no dataset recognized; {content}; looked for {'; '.join(recognizers)}")


def split_rank(name: str) -> int:
    """Sort key by split: training sets come first, then validation sets, then test sets, then others."""
    ranks = [number for number, split in enumerate(SPLITS) if re.search(rf"(?<![a-z]){split}(?![a-z])", name.lower())]
    return min(ranks, default=len(SPLITS))


def is_training(name: str, alone: bool) -> bool:
    """Whether a set is training data: its name contains the word "train" or "training", or it is the only
    set (`alone`)."""
    return alone or split_rank(name) < SPLITS.index("val")


def find_folders(root: Path) -> list[Folder]:
    """The folder `root` and its subfolders to a depth of three, without hidden ones, sorted by path."""
    result: list[Folder] = []
    for where, folders, files in os.walk(root):
        path = Path(where)
        deep = len(path.relative_to(root).parts) >= DEPTH or len(result) >= MAX_FOLDERS
        folders[:] = [] if deep else sorted(name for name in folders if not is_hidden(name))
        result.append(Folder(path, sorted(name for name in files if not is_hidden(name))))
    return sorted(result, key=lambda folder: folder.path)


def relative(path: Path, root: Path) -> str:
    """The path relative to `root`, with slashes; it starts with `..` if it is outside `root`."""
    return Path(os.path.relpath(path, root)).as_posix()


def _content(folder: Path) -> str:
    """The first names of subfolders (with a slash) and files in a folder, for messages."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not is_hidden(entry.name))
    return first_names(names) if names else "no files"


def with_suffix(folders: Sequence[Folder], *suffixes: str) -> Iterator[Path]:
    """The paths of the files in the folders whose names, in lowercase, end with one of the suffixes."""
    for folder in folders:
        yield from (folder.path / name for name in folder.files if name.lower().endswith(suffixes))
