"""Reads label images: image files whose pixels are class ids (with or without a palette) or colors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from chordate.data.paths import missing_file
from chordate.data.pixel_limit import too_many_pixels
from chordate.errors import BrokenFile, DataError

LabelPixels = NDArray[np.integer[Any]]  # ids [H, W], or colors [H, W, 3] uint8 RGB

_ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_COLOR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def read_label_image(path: Path) -> LabelPixels:
    """Read the pixels of a label image.

    Images with one channel have ids: gray values, palette indices (the colors of a palette in the file are not used),
    or 0 and 1 in 1-bit images. An alpha channel is dropped.

    Returns:
        Ids `[H, W]`, or colors `[H, W, 3]` uint8 RGB.

    Raises:
        DataError: the file is missing, is not a readable image, has too many pixels (see `pixel_limit`), is a JPEG, or
            has floating-point pixels.
    """
    if not path.is_file():
        raise DataError(missing_file(path, "label"))
    try:
        with PIL.Image.open(path) as image:
            if image.format == "JPEG":
                raise DataError(f"{path}: JPEG compression changes the classes of pixels; save label images as PNG")
            if image.mode in _ID_MODES:
                pixels = np.array(image)
                return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels
            if image.mode in ("LA", "PA"):
                return np.array(image.getchannel(0))
            if image.mode in _COLOR_MODES:
                return np.array(image.convert("RGB"))
            mode = image.mode
    except PIL.Image.DecompressionBombError as error:
        raise BrokenFile(too_many_pixels(path)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise BrokenFile(f"{path}: not a readable label image: {error}") from error
    raise DataError(f"{path}: pixels of mode {mode} are not class ids; save them as an 8-bit or 16-bit PNG")


def pack_colors(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Pack RGB colors `[..., 3]` into integers `[...]`: 65536 · red + 256 · green + blue."""
    packed = np.zeros((*colors.shape[:-1], 4), np.uint8)
    packed[..., :3] = colors[..., ::-1]
    return packed.view("<i4")[..., 0]


def format_color(packed: int) -> str:
    """Format a packed color as it is written in a config: `(128, 64, 0)`."""
    return str((packed >> 16, packed >> 8 & 255, packed & 255))
