"""Reads image files as tensors; a truncated file is an error, instead of an image with gray pixels."""

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from chordate.data.image_bands import decode_bands, undecodable
from chordate.data.pixel_limit import MAX_PIXELS, too_many_pixels
from chordate.errors import NOT_REGULAR, BrokenFile, DataError, near_names

# The suffixes of the images in a folder. HEIC is listed so that such a file is reported, not left out.
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".gif", ".avif", ".jp2"),
    *(".npy", ".heic", ".heif"),
)
# First and last bytes of complete files; files that end differently are decoded again by Pillow.
_ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xae\x42\x60\x82"}
# JPEG, PNG with up to 8 bits, BMP, and WebP without extensions: OpenCV decodes them to 8-bit color.
_PLAIN = re.compile(rb"\xff\xd8|\x89PNG.{20}[\x01\x02\x04\x08]|BM|RIFF.{4}WEBPVP8[ L]", re.DOTALL)
MAX_FILE_BYTES = 1 << 30  # of an image file, on disk or in a zip


def read_image(path: str | Path, size: tuple[int, int] | None = None, channels: int = 3) -> Tensor:
    """Read an image as `[C, H, W]` uint8, RGB if there are 3 channels (channels last in memory).

    Grayscale, CMYK and palette files become RGB, and the alpha channel is dropped. Of values with 16 bits (or with 10,
    12 or 14 bits stored in 16), the upper 8 bits are kept; floats of 0 … 1 are scaled to 0 … 255. Of animations and
    files with several pages, the first frame or page is read.

    Args:
        path: an image file, or a `.npy` file of `[H, W]` or `[H, W, C]`.
        size: height and width in the annotations, which decide whether the EXIF orientation is applied: some
            annotation tools use the image as displayed (with EXIF orientation), others the image as stored. The
            orientation is also applied if the stored and the displayed image both have this size, or if `size` is None.
        channels: number of channels `C`. With 4 or more, the file must have as many.

    Raises:
        BrokenFile: the file is missing, truncated or not an image.
        DataError: its size differs from the annotations', or its number of channels or range of values does not fit.
    """
    path = Path(path)
    if not path.is_file():  # also for a pipe, which would block
        raise BrokenFile(missing_file(path, "image"))
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BrokenFile(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, the limit for image files")
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise BrokenFile(f"{path}: cannot be read ({error.strerror or error})") from error
    return decode_image(data, path, size, channels)


def decode_image(data: NDArray[np.uint8], path: Path, size: tuple[int, int] | None = None, channels: int = 3) -> Tensor:
    """Decode the bytes of an image file as `read_image` does; `path` is for messages."""
    check_image_file(path, data)
    image: Any
    stored: Any
    plain = channels == 3 and _PLAIN.match(data[:32].tobytes())
    try:
        stored = image = cv2.imdecode(data, cv2.IMREAD_COLOR) if plain else decode_bands(data, path, channels)
        if image is not None and size is not None and image.shape[:2] != tuple(size):
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            stored = cv2.imdecode(data, flags) if plain else decode_bands(data, path, channels, rotate=False)
    except cv2.error as error:  # OpenCV has its own limit of pixels
        raise BrokenFile(f"{path}: OpenCV cannot decode it ({' '.join(str(error).split())[:160]})") from error
    if image is None or stored is None:
        raise BrokenFile(undecodable(data, path))
    if size is not None and stored.shape[:2] != tuple(size):
        height, width = image.shape[:2]
        raise DataError(
            f"{path}: the image is {width}×{height}, but the annotations say {size[1]}×{size[0]}; "
            f"they were made for another version of the image"
        )
    return torch.from_numpy(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB) if plain else stored).permute(2, 0, 1)


def missing_file(path: Path, kind: str) -> str:
    """Error message for a missing file; names the first folder that does not exist, or files with similar names."""
    folder = path.parent
    if path.is_dir():
        return f"{path}: is a folder, expected the {kind} file"
    if path.exists():
        return f"{path}: {NOT_REGULAR}"
    if not folder.is_dir():
        while not folder.parent.is_dir():
            folder = folder.parent
        return f"{path}: no such {kind} file; the folder {folder} does not exist{_near(folder)}"
    return f"{path}: no such {kind} file{_near(path)}"


def _near(path: Path) -> str:
    close = near_names(path.name, (entry.name for entry in path.parent.iterdir()))
    return f"; did you mean {' or '.join(close)}?" if close else ""


def check_image_file(path: Path, data: NDArray[np.uint8]) -> None:
    """Check the bytes of an image file, without decoding a complete JPEG or PNG.

    Raises:
        BrokenFile: the image has more than MAX_PIXELS pixels, or is truncated: OpenCV only warns and fills missing
            pixels with gray; Pillow raises.
    """
    head, tail = data[:24].tobytes(), data[-64:].tobytes()
    is_complete = any(head.startswith(start) and end in tail for start, end in _ENDINGS.items())
    is_png = head.startswith(b"\x89PNG")  # read without Pillow, which refuses PNGs with long texts
    if is_png and int.from_bytes(head[16:20], "big") * int.from_bytes(head[20:24], "big") > MAX_PIXELS:
        raise BrokenFile(too_many_pixels(path))
    if is_png and is_complete:
        return
    try:
        image = PIL.Image.open(io.BytesIO(data.data))
        if not is_complete:
            image.load()
    except PIL.UnidentifiedImageError:
        return  # a format that OpenCV supports and Pillow does not
    except PIL.Image.DecompressionBombError as error:
        raise BrokenFile(too_many_pixels(path)) from error
    except Exception as error:  # damaged files raise many types of errors
        raise BrokenFile(f"{path}: broken or truncated ({error}); copy or download it again") from error
