"""Reads image files as tensors; a truncated file is an error, instead of an image with gray pixels."""

import io
import re
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from chordate.data.decoder_logs import silenced_decoders
from chordate.data.image_bands import decode_bands, opencv_message, undecodable
from chordate.data.paths import missing_file
from chordate.data.pixel_limit import MAX_PIXELS, too_many_pixels
from chordate.errors import BrokenFile, DataError

# The suffixes of the images in a folder. HEIC is listed so that such a file is reported, not left out.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".gif", ".avif", ".jp2", ".jpx", ".jpf", ".j2k", ".jpc", ".tga", ".dib", ".apng", ".mpo", ".pam", ".pcx", ".ras"),
    *(".sgi", ".qoi", ".npy", ".heic", ".heif"),
)
# Start and end markers of complete JPEG and PNG files; all other files are also decoded by Pillow, to find truncation.
ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xae\x42\x60\x82"}
# JPEG, PNG with up to 8 bits, BMP, and WebP without extensions: OpenCV decodes them to 8-bit color.
PLAIN = re.compile(rb"\xff\xd8|\x89PNG.{20}[\x01\x02\x04\x08]|BM|RIFF.{4}WEBPVP8[ L]", re.DOTALL)
MAX_FILE_BYTES = 1 << 30  # maximum size of an image file, on disk or in a zip


def read_image(
    path: str | Path, size: tuple[int, int] | None = None, channels: int = 3, white_level: int | None = None
) -> Tensor:
    """Read an image as `[C, H, W]` uint8, RGB if there are 3 channels (channels last in memory).

    By default, grayscale, CMYK and palette files become RGB, and the alpha channel is dropped. Values with 16 bits (or
    with 10, 12 or 14 bits stored in 16) keep their upper 8 bits; floats of 0 … 1 are scaled to 0 … 255. Only the first
    frame of an animation, or the first page of a file with several pages, is read.

    Args:
        path: an image file, or a `.npy` file of `[H, W]` or `[H, W, C]`.
        size: height and width in the annotations, which decide whether the EXIF orientation is applied: some
            annotation tools use the image as displayed (with EXIF orientation), others the image as stored. The
            orientation is also applied if the stored and the displayed image both have this size, or if `size` is None.
        channels: number of channels `C`. Files are converted to 1 (gray) or 3 (RGB) channels; with any other number,
            the file must have the same number.
        white_level: the white level of the image's dataset, see `find_white_level`; None determines it for each image
            separately.

    Raises:
        BrokenFile: the file is missing, truncated or not an image.
        DataError: its size differs from the annotations', or its number of channels or range of values does not fit.
    """
    path = Path(path)
    return decode_image(read_bytes(path), path, size, channels, white_level)


def read_bytes(path: Path, kind: str = "image") -> NDArray[np.uint8]:
    """Read an image file without decoding it; `kind` is for messages.

    Raises:
        BrokenFile: the file is missing, cannot be read, or is larger than MAX_FILE_BYTES.
    """
    if not path.is_file():  # also true for a pipe; reading it would block
        raise BrokenFile(partial(missing_file, path, kind))
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BrokenFile(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, the limit for image files")
        return np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise BrokenFile(f"{path}: cannot be read ({error.strerror or error})") from error


def decode_image(
    data: NDArray[np.uint8],
    path: Path,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    white_level: int | None = None,
) -> Tensor:
    """Decode the bytes of an image file as `read_image` does; `path` is for messages."""
    check_image_file(path, data)
    image: Any
    stored: Any
    plain = channels == 3 and PLAIN.match(data[:32].tobytes())

    def decode(rotate: bool) -> Any:
        if not plain:
            return decode_bands(data, path, channels, white_level, rotate=rotate)
        with silenced_decoders():
            return cv2.imdecode(data, cv2.IMREAD_COLOR | (0 if rotate else cv2.IMREAD_IGNORE_ORIENTATION))

    try:
        stored = image = decode(rotate=True)
        if image is not None and size is not None and image.shape[:2] != tuple(size):
            stored = decode(rotate=False)
    except cv2.error as error:  # OpenCV has its own limit of pixels
        raise BrokenFile(opencv_message(path, error)) from error
    if image is None or stored is None:
        raise BrokenFile(undecodable(data, path))
    if size is not None and stored.shape[:2] != tuple(size):
        raise DataError(wrong_size(path, image.shape[:2], size))
    return torch.from_numpy(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB) if plain else stored).permute(2, 0, 1)


def wrong_size(path: Path, size: tuple[int, int], annotated: tuple[int, int]) -> str:
    """Error message for an image whose size, height and width, differs from that in the annotations."""
    return (
        f"{path}: the image is {size[1]}×{size[0]}, but the annotations say {annotated[1]}×{annotated[0]}; "
        f"they were made for another version of the image"
    )


def check_image_file(path: Path, data: NDArray[np.uint8]) -> None:
    """Check the bytes of an image file, without decoding a complete JPEG or PNG.

    Truncated files are found with Pillow, since OpenCV only warns and fills the missing pixels with gray.

    Raises:
        BrokenFile: the image has more than MAX_PIXELS pixels, or is truncated.
    """
    head, tail = data[:24].tobytes(), data[-64:].tobytes()
    is_complete = any(head.startswith(start) and end in tail for start, end in ENDINGS.items())
    is_png = head.startswith(b"\x89PNG")  # its size is read without Pillow, which refuses long text chunks
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
