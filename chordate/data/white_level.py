"""Finds the white level of a dataset with more than 8 bits per channel: the largest value that its pixels can have.

It is one value per dataset, since a white level per image would brighten dark images relative to the others.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import tifffile

from chordate.data.dataset import Dataset
from chordate.data.decoder_logs import silenced_decoders
from chordate.data.image_bands import BY_PILLOW, decode_native, white_level_of
from chordate.data.image_io import PLAIN, read_bytes
from chordate.errors import DataError

SAMPLED = 64  # maximum number of images that are read


def find_white_level(dataset: Dataset) -> int | None:
    """The white level of a dataset: the smallest that fits up to `SAMPLED` images, spread evenly over the dataset.

    It is 1023, 4095, 16383 or 65535 for integers of 10, 12, 14 or 16 bits, 255 for 8-bit values stored in 16 bits, and
    1 or 255 for floats. None if a sampled image has 8 bits or no file of its own (e.g. in a zip), if some images have
    integers and others floats, or if no image can be read.
    """
    if type(dataset).image_path is Dataset.image_path:
        return None
    levels: dict[str, int] = {}
    for index in range(0, len(dataset), max(1, len(dataset) // SAMPLED))[:SAMPLED]:
        path = dataset.image_path(index)
        try:
            kind, level = ("", None) if path is None else _white_level(path)
        except DataError:  # reported when the image is read
            continue
        if level is None:
            return None
        levels[kind] = max(level, levels.get(kind, 0))
    return next(iter(levels.values())) if len(levels) == 1 else None


def describe_white_level(level: int) -> str:
    """A log line that explains how the white level scales the pixels of a dataset."""
    return f"pixels are scaled to 0 … 255 from 0 … {level}, the smallest range that fits up to {SAMPLED} sampled images"


def _white_level(path: Path) -> tuple[str, int | None]:
    """The kind of an image's pixels ("i" for integers, "f" for floats), and the smallest white level that fits them;
    ("", None) for 8 bits."""
    data = read_bytes(path)
    head = data[:32].tobytes()
    if PLAIN.match(head) or BY_PILLOW.match(head):
        return "", None
    if head.startswith((b"II", b"MM")):
        try:
            with silenced_decoders(), tifffile.TiffFile(io.BytesIO(data.tobytes())) as file:
                if file.pages[0].dtype == np.uint8:  # type: ignore[union-attr]
                    return "", None
        except Exception:  # a damaged header can raise anything; decoding reports it
            pass
    image = decode_native(data, path)
    if image.dtype in (np.uint8, np.bool_):
        return "", None
    return ("f" if image.dtype.kind == "f" else "i"), white_level_of(image, str(path))
