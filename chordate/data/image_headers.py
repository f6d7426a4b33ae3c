"""Reads the sizes in the headers of image files, and checks JPEG and PNG files without decoding them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from chordate.data.image_bands import EXIF_ORIENTATION, UNDECODABLE, decode_native, load_array
from chordate.data.image_io import ENDINGS, read_bytes, wrong_size
from chordate.data.paths import missing_file
from chordate.data.pixel_limit import too_many_pixels
from chordate.errors import BrokenFile, DataError

EXIF_QUARTER_TURNS = (5, 6, 7, 8)
Size = tuple[int, int]


def image_sizes(path: Path) -> tuple[Size, Size]:
    """Height and width of an image as displayed (with its EXIF orientation) and as stored, from the file's header.

    Raises:
        BrokenFile: the file is missing or not an image.
        DataError: the array in a `.npy` file is not a non-empty `[H, W]` or `[H, W, C]`.
    """
    if not path.is_file():
        raise BrokenFile(partial(missing_file, path, "image"))
    try:
        if path.suffix.lower() == ".npy":
            height, width = load_array(np.fromfile(path, np.uint8), path).shape[:2]
            return (height, width), (height, width)
        with PIL.Image.open(path) as image:
            width, height = image.size
            if image.format == "TIFF":  # versions of Pillow differ in whether `size` is that of the rotated image
                width, height = (image.tag_v2[tag] for tag in (256, 257))  # type: ignore[attr-defined]
            is_turned = image.getexif().get(EXIF_ORIENTATION) in EXIF_QUARTER_TURNS
            return (width, height) if is_turned else (height, width), (height, width)
    except PIL.Image.DecompressionBombError as error:
        raise BrokenFile(too_many_pixels(path)) from error
    except (*UNDECODABLE, KeyError):  # Pillow does not know the format, or the header is broken
        height, width = decode_native(read_bytes(path), path).shape[:2]
        return (height, width), (height, width)


def displayed_size(path: Path) -> Size:
    """Height and width of an image as displayed. Raises as `image_sizes` does."""
    return image_sizes(path)[0]


def check_image(path: Path, size: Size | None, read: Callable[[Path], Any]) -> None:
    """Check from the header and the last bytes of an image file that it is complete and has the wanted size.

    Damage in the middle of a JPEG or PNG is not found.

    Args:
        path: the file.
        size: the wanted height and width, as displayed or as stored; None for any.
        read: reads the file, and raises if it is broken. Called unless the file has the start and end
            markers of a JPEG or PNG.

    Raises:
        BrokenFile: the file is missing, truncated or not an image.
        DataError: the image has another size.
    """
    if not _is_complete(path):
        read(path)
    if size is not None and size not in (sizes := image_sizes(path)):
        raise DataError(wrong_size(path, sizes[0], size))


def _is_complete(path: Path) -> bool:
    """Whether a file has the start and end markers of a JPEG or PNG."""
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(-min(64, os.fstat(file.fileno()).st_size), os.SEEK_END)
            tail = file.read()
    except OSError:
        return False
    return any(start.startswith(first) and last in tail for first, last in ENDINGS.items())
