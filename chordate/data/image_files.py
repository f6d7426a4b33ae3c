"""Finds the image files in a folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from chordate.data.image_io import SUFFIXES
from chordate.errors import DataError


def list_images(folder: Path) -> list[str]:
    """Sorted paths of the images in a folder and its subfolders, relative to the folder, with slashes.

    Leaves out hidden files and folders, and `.npy` files next to an image of the same name (caches of other tools).
    """
    files = list_files(folder, SUFFIXES)
    stems = {image_stem(name) for name in files if not _is_array(name)}
    return [name for name in files if not (_is_array(name) and image_stem(name) in stems)]


def image_files(folder: Path) -> list[Path]:
    """Sorted paths of the images in a folder and its subfolders.

    Raises:
        DataError: there are none.
    """
    files = [folder / name for name in list_images(folder)]
    if not files:
        raise DataError(no_images(folder))
    return files


def no_images(folder: Path) -> str:
    """Error message for a folder without images."""
    return f"{folder}: no images in this folder ({', '.join(SUFFIXES)})"


def list_files(folder: Path, suffixes: str | tuple[str, ...]) -> list[str]:
    """Sorted paths of the files with a suffix (case-insensitive) in a folder and its subfolders, except hidden ones.

    The paths are relative to the folder, with slashes. `suffixes` must be in lowercase.
    """
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        inside = os.path.relpath(where, folder).replace(os.sep, "/")
        names = [name for name in names if name.lower().endswith(suffixes) and not is_hidden(name)]
        files += names if inside == "." else [f"{inside}/{name}" for name in names]
    return sorted(files)


def _is_array(name: str) -> bool:
    return name.lower().endswith(".npy")


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or was created by a tool: `._1.jpg`, `.ipynb_checkpoints/`, `__MACOSX/`."""
    return name.startswith((".", "__MACOSX"))


def image_stem(name: str) -> str:
    """Remove the image suffix from a path with slashes; other suffixes belong to the name (`frame.0001`)."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name
