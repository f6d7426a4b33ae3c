"""Decodes images that are not 8-bit color: 16 bits, floats, other numbers of channels, several frames, `.npy` files.

The rules depend only on the file and on the model's number of channels and white level, so they are the same in
training, evaluation and prediction; docs/own_data.md lists them.
"""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

from chordate.data.decoder_logs import silenced_decoders
from chordate.data.pixel_limit import MAX_PIXELS, too_many_pixels
from chordate.errors import BrokenFile, DataError
from chordate.text import one_line, pluralize

SENSOR_BITS = (8, 10, 12, 14, 16)  # numbers of significant bits of files with 16 bits per value
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError)  # raised by Pillow
# Pillow decodes GIF, AVIF and extended WebP (animation, alpha, metadata): builds of OpenCV differ in their support.
BY_PILLOW = re.compile(rb"GIF8|.{4}ftypavi[fs]|RIFF.{4}WEBPVP8X", re.DOTALL)
_HEIC = re.compile(rb".{4}ftyp(hei|hev|mif1|msf1)", re.DOTALL)
_NUMPY = b"\x93NUMPY"
_NATIVE = ("L", "RGB", "RGBA", "F", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes that numpy reads as they are
EXIF_ORIENTATION = 0x112
log = logging.getLogger("chordate")
reported: set[str] = set()


def decode_bands(
    data: NDArray[np.uint8], path: Path, channels: int, white_level: int | None = None, *, rotate: bool = True
) -> NDArray[np.uint8]:
    """Decode an image to `[H, W, channels]` uint8, with colors in RGB order.

    Args:
        data: the bytes of the file.
        path: the file, for messages.
        channels: number of channels of the result.
        white_level: see `to_uint8`.
        rotate: whether to apply the EXIF orientation.

    Raises:
        BrokenFile: the file cannot be decoded.
        DataError: the values are in an unknown range, or the image cannot be converted to `channels` channels.
    """
    bands = decode_native(data, path, rotate)
    return np.array(select_channels(to_uint8(bands, str(path), white_level), channels, str(path)), order="C")


def decode_native(data: NDArray[np.uint8], path: Path, rotate: bool = True) -> NDArray[Any]:
    """Decode a file to `[H, W, C]` of the file's own type and number of channels, with colors in RGB order.

    Raises:
        BrokenFile: the file cannot be decoded.
        DataError: the array in a `.npy` file is not a non-empty `[H, W]` or `[H, W, C]`.
    """
    head = data[:32].tobytes()
    if head.startswith(_NUMPY):
        return load_array(data, path)
    is_tiff = head.startswith((b"II", b"MM"))
    if is_tiff and (many := _load_many_bands(data, path, rotate)) is not None:
        return many
    bands = None if BY_PILLOW.match(head) else decode_unchanged(data, path)
    if bands is not None and bands.ndim == 3 and bands.shape[2] in (3, 4):
        bands = bands[..., [2, 1, 0, 3][: bands.shape[2]]]  # from OpenCV's BGR to RGB
    try:
        with PIL.Image.open(io.BytesIO(data.tobytes())) as image:
            frames = getattr(image, "n_frames", 1)
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            if bands is None:
                bands = np.asarray(image if image.mode in _NATIVE else image.convert(_mode(image)))
    except UNDECODABLE as error:
        if bands is None:
            raise BrokenFile(undecodable(data, path)) from error
        frames = orientation = 1  # Pillow does not know the format
    if frames > 1:
        _report("frames", f"{path}: only the first of its {frames} pages or frames is read")
    if is_tiff:  # OpenCV and Pillow always apply the orientation of a TIFF
        orientation = 1 if rotate else {6: 8, 8: 6}.get(orientation, orientation)
    elif not rotate:
        orientation = 1
    return _orient(bands[..., None] if bands.ndim == 2 else bands, orientation)


def _mode(image: PIL.Image.Image) -> str:
    return "RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "LA") else "RGB"


def decode_unchanged(data: NDArray[np.uint8], path: Path) -> NDArray[Any] | None:
    """Decode a file with OpenCV, to the file's own type and channels (colors in BGR order); None if OpenCV cannot
    read it.

    Raises:
        BrokenFile: the image exceeds OpenCV's own limit of pixels.
    """
    try:
        with silenced_decoders():
            return cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except cv2.error as error:
        raise BrokenFile(opencv_message(path, error)) from error


def opencv_message(path: Path, error: cv2.error) -> str:
    """Error message for an image for which OpenCV raises an error."""
    return f"{path}: OpenCV cannot decode it ({one_line(error, 160)})"


def undecodable(data: NDArray[np.uint8], path: Path) -> str:
    """Error message for a file that no decoder reads."""
    if _HEIC.match(data[:32].tobytes()):
        return f"{path}: HEIC images are not supported; convert it to JPEG or PNG"
    return (
        f"{path}: not a readable image, or truncated ({len(data)} bytes); copy or download it again, "
        f"or convert it to 8-bit PNG or JPEG"
    )


def load_array(data: NDArray[np.uint8], path: Path) -> NDArray[Any]:
    """Load an array `[H, W]` or `[H, W, C]` from the bytes of a `.npy` file. Returns `[H, W, C]`.

    Raises:
        BrokenFile: the file is broken, or the array has more than MAX_PIXELS pixels.
        DataError: the array has another shape, or is empty.
    """
    try:
        array: Any = np.load(io.BytesIO(data.tobytes()), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError) as error:
        raise BrokenFile(f"{path}: not a readable array, or truncated: {error}") from error
    if not isinstance(array, np.ndarray):
        raise BrokenFile(f"{path}: is an archive of arrays (.npz); save one array as .npy")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise DataError(f"{path}: an image must be a non-empty array [H, W] or [H, W, C], got {list(array.shape)}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise BrokenFile(too_many_pixels(path))
    return array


def _load_many_bands(data: NDArray[np.uint8], path: Path, rotate: bool) -> NDArray[Any] | None:
    """Load a TIFF with more than 4 channels, which OpenCV refuses and Pillow cuts to 3; None for other files."""
    try:
        with silenced_decoders(), tifffile.TiffFile(io.BytesIO(data.tobytes())) as file:
            page: Any = file.pages[0]
            if page.samplesperpixel <= 4:
                return None
            pixels = page.imagelength * page.imagewidth
            orientation = int(page.tags[EXIF_ORIENTATION].value) if rotate and EXIF_ORIENTATION in page.tags else 1
    except Exception:  # a damaged header can raise anything; the other decoders report it
        return None
    if pixels > MAX_PIXELS:
        raise BrokenFile(too_many_pixels(path))
    try:
        with silenced_decoders():
            bands = page.asarray()
    except Exception as error:
        raise BrokenFile(f"{path}: not a readable image, or truncated: {error}") from error
    return _orient(np.moveaxis(bands, 0, 2) if page.axes == "SYX" else bands, orientation)


def _orient(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation (1 … 8) to an image `[H, W, C]`."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def to_uint8(image: NDArray[Any], source: str, white_level: int | None = None) -> NDArray[np.uint8]:
    """Convert pixels of any type to 0 … 255. Integers with more than 8 bits keep their upper 8 bits.

    Args:
        image: the pixels.
        source: the file, for messages.
        white_level: the white level of the image's dataset, see `find_white_level`; larger values are clipped with a
            warning. None uses `white_level_of(image)`.

    Raises:
        DataError: the pixels are neither integers nor floats, or their values are in an unknown range or not finite.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image * np.uint8(255)
    own = white_level_of(image, source)
    is_float, level = image.dtype.kind == "f", own
    if white_level is not None and (white_level in (1, 255) if is_float else white_level >= 255):
        level = white_level
        if own > level:
            _report("white", f"{source}: values above {level}, the white level of its dataset, are clipped")
            image = image.clip(max=level)
    elif not is_float and own < 65535:
        bits = f"{8 * image.itemsize} bits are read as {own.bit_length()} bits"
        _report("bits", f"{source}: values up to {image.max()} in {bits}")
    if is_float:
        return np.rint(image * 255.0 if level == 1 else image).astype(np.uint8)
    return (image >> (level.bit_length() - 8)).astype(np.uint8)


def white_level_of(image: NDArray[Any], source: str) -> int:
    """The smallest white level that fits the values of an image: 1 or 255 for floats, 2ᵇ - 1 for integers, with `b`
    from SENSOR_BITS. Raises as `to_uint8` does."""
    if image.dtype.kind not in "iuf":
        raise DataError(f"{source}: pixels must be integers or floats, got {image.dtype}")
    low, high = image.min(), image.max()
    if image.dtype.kind == "f":
        if not (low >= 0 and high <= 255):  # also true for NaN
            raise DataError(
                f"{source}: floating-point pixels must be within 0 … 1 or 0 … 255, got {low:g} … {high:g}; scale them, "
                f"or save 8 or 16 bits"
            )
        return 1 if high <= 1 else 255
    if low < 0 or high > 65535:
        raise DataError(f"{source}: integer pixels must be within 0 … 65535, got {low} … {high}; scale them")
    return next(2**bits - 1 for bits in SENSOR_BITS if high < 2**bits)


def select_channels(image: NDArray[np.uint8], channels: int, source: str) -> NDArray[np.uint8]:
    """Convert `[H, W, C]` to `channels` channels: gray is repeated for RGB, RGB becomes gray, alpha is dropped.

    Raises:
        DataError: the numbers of channels do not fit.
    """
    count = image.shape[2]
    if channels == count:
        return image
    if channels in (1, 3) and count in (2, 4):
        return select_channels(image[..., : count - 1], channels, source)
    if (channels, count) == (3, 1):
        return image.repeat(3, axis=2)
    if (channels, count) == (1, 3):
        gray: Any = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        return gray[..., None]
    raise DataError(
        f"{source}: the image has {pluralize(count, 'channel')}, but the model takes {channels}; set the lengths of "
        f"model.preprocess.mean and std and model.backbone.in_channels to {count}, or convert the images"
    )


def _report(kind: str, message: str) -> None:
    """Log a warning about the first file of a kind."""
    if kind not in reported:
        reported.add(kind)
        log.warning(f"{message} (logged only for the first file of this kind)")
