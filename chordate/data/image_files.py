"""Finds the image files in a folder, and the sizes in their headers."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image

from chordate.data.image_bands import EXIF_ORIENTATION, UNDECODABLE, decode_native, load_array
from chordate.data.image_io import SUFFIXES, missing_file
from chordate.data.pixel_limit import too_many_pixels
from chordate.errors import BrokenFile

EXIF_QUARTER_TURNS = (5, 6, 7, 8)


def list_images(folder: Path) -> list[str]:
    """Sorted paths of the images in a folder and its subfolders, relative to the folder, with slashes.

    Leaves out hidden files and folders, and `.npy` files next to an image of the same name (caches of other tools).
    """
    found = list_files(folder, SUFFIXES)
    stems = {image_stem(name) for name in found if not _is_array(name)}
    return [name for name in found if not (_is_array(name) and image_stem(name) in stems)]


def list_files(folder: Path, suffixes: str | tuple[str, ...]) -> list[str]:
    """Sorted paths of the files with a suffix (in any case) in a folder and its subfolders, except hidden ones."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        inside = os.path.relpath(where, folder).replace(os.sep, "/")
        names = [name for name in names if name.lower().endswith(suffixes) and not is_hidden(name)]
        found += names if inside == "." else [f"{inside}/{name}" for name in names]
    return sorted(found)


def _is_array(name: str) -> bool:
    return name.lower().endswith(".npy")


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or was created by a tool: `._1.jpg`, `.ipynb_checkpoints/`, `__MACOSX/`."""
    return name.startswith((".", "__MACOSX"))


def image_stem(name: str) -> str:
    """A path with slashes, without the suffix of an image; other suffixes belong to the name (`frame.0001`)."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def displayed_size(path: Path) -> tuple[int, int]:
    """Read the height and width of an image from the header of its file, with the EXIF orientation applied.

    Raises:
        BrokenFile: the file is missing or not an image.
    """
    if not path.is_file():
        raise BrokenFile(missing_file(path, "image"))
    try:
        if path.suffix.lower() == ".npy":
            height, width = load_array(np.fromfile(path, np.uint8), path).shape[:2]
            return height, width
        with PIL.Image.open(path) as image:
            width, height = image.size
            if image.format == "TIFF":  # versions of Pillow differ in whether `size` is that of the rotated image
                width, height = (image.tag_v2[tag] for tag in (256, 257))  # type: ignore[attr-defined]
            turned = image.getexif().get(EXIF_ORIENTATION) in EXIF_QUARTER_TURNS
            return (width, height) if turned else (height, width)
    except PIL.Image.DecompressionBombError as error:
        raise BrokenFile(too_many_pixels(path)) from error
    except (*UNDECODABLE, KeyError):  # Pillow does not know the format, or the header is broken
        height, width = decode_native(np.fromfile(path, np.uint8), path).shape[:2]
        return height, width
