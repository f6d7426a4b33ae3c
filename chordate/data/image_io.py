"""Reads image files as RGB tensors; a truncated file is an error, instead of an image with gray pixels.

An image may have at most `MAX_PIXELS` pixels, since a small file can claim a size that fills the memory. The
environment variable CHORDATE_MAX_PIXELS sets another limit.
"""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from chordate.errors import NOT_REGULAR, ConfigError, DataError, near_names

# First and last bytes of complete files; files that end differently are decoded again by Pillow.
_ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xae\x42\x60\x82"}
MAX_FILE_BYTES = 1 << 30  # of an image file, on disk or in a zip


def _max_pixels() -> int:
    text = os.environ.get("CHORDATE_MAX_PIXELS") or "178956970"  # Pillow's limit
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigError(f"CHORDATE_MAX_PIXELS must be a positive integer, got {text!r}")
    return int(text)


MAX_PIXELS = _max_pixels()
PIL.Image.MAX_IMAGE_PIXELS = (MAX_PIXELS + 1) // 2  # Pillow warns above this number, and raises above twice this number


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read an image as `[3, H, W]` uint8 RGB (channels last in memory).

    Grayscale, CMYK, palette, 16-bit and transparent files become 8-bit RGB (the alpha channel is
    dropped; the upper 8 of 16 bits are kept).

    Args:
        path: image file in any format that OpenCV reads.
        size: height and width in the annotations, which decide whether the EXIF orientation is applied: some
            annotation tools use the image as displayed (with EXIF orientation), others the image as stored. The
            orientation is also applied if both images have this size, or if `size` is None.

    Raises:
        DataError: the file is missing, truncated or not an image, or its size differs from the annotations'.
    """
    path = Path(path)
    if not path.is_file():  # also for a pipe, which would block
        raise DataError(missing_file(path, "image"))
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, the limit for image files")
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return decode_image(data, path, size)


def decode_image(data: NDArray[np.uint8], path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Decode the bytes of an image file as `read_image` does; `path` is for messages."""
    check_image_file(path, data)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error as error:  # OpenCV has a limit of its own
        raise DataError(f"{path}: OpenCV cannot decode it ({' '.join(str(error).split())[:160]})") from error
    if image is None:
        raise DataError(
            f"{path}: not a readable image, or truncated ({len(data)} bytes); copy or download it again, "
            f"or convert it to 8-bit PNG or JPEG"
        )
    if size is not None and image.shape[:2] != tuple(size):
        stored = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored is None or stored.shape[:2] != tuple(size):
            height, width = image.shape[:2]
            raise DataError(
                f"{path}: the image is {width}×{height}, but the annotations say {size[1]}×{size[0]}; "
                f"they were made for another version of the image"
            )
        image = stored
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)


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
        DataError: the image has more than MAX_PIXELS pixels, or is truncated: OpenCV only warns and fills missing
            pixels with gray; Pillow raises.
    """
    head, tail = data[:24].tobytes(), data[-64:].tobytes()
    is_complete = any(head.startswith(start) and end in tail for start, end in _ENDINGS.items())
    is_png = head.startswith(b"\x89PNG")  # read without Pillow, which refuses PNGs with long texts
    if is_png and int.from_bytes(head[16:20], "big") * int.from_bytes(head[20:24], "big") > MAX_PIXELS:
        raise DataError(too_many_pixels(path))
    if is_png and is_complete:
        return
    try:
        image = PIL.Image.open(io.BytesIO(memoryview(data)))
        if not is_complete:
            image.load()
    except PIL.UnidentifiedImageError:
        return  # a format that OpenCV supports and Pillow does not
    except PIL.Image.DecompressionBombError as error:
        raise DataError(too_many_pixels(path)) from error
    except Exception as error:  # damaged files raise many types of errors
        raise DataError(f"{path}: broken or truncated ({error}); copy or download it again") from error


def too_many_pixels(path: Path | str) -> str:
    """Error message for an image with more than MAX_PIXELS pixels."""
    return f"{path}: more than {MAX_PIXELS:,} pixels; set CHORDATE_MAX_PIXELS to allow larger images"
