"""Encodes arrays as PNG and TIFF without a library, so that the tests of decoders know the exact pixels."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np


def png(pixels: np.ndarray, extra: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG of `[H, W, C]` with 8 or 16 bits; 1 channel is gray, 2 gray and alpha, 3 RGB, 4 RGBA."""
    height, width, channels = pixels.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def palette_png(indices: np.ndarray, colors: np.ndarray, alpha: bytes = b"") -> bytes:
    """An 8-bit palette PNG of indices `[H, W]` uint8 and colors `[N, 3]` uint8, optionally with transparency."""
    height, width = indices.shape
    data = b"".join(b"\0" + row.tobytes() for row in indices)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)), (b"PLTE", colors.tobytes())]
    chunks += [(b"tRNS", alpha)] if alpha else []
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def tiff(*pages: np.ndarray, orientation: int = 1, order: str = "<") -> bytes:
    """An uncompressed TIFF of pages `[H, W, C]`: uint8, uint16 or float32, with any number of channels."""
    content = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 0))
    link = 4  # where the offset of the next page is written
    for page in pages:
        height, width, channels = page.shape
        strip = len(content)
        content += page.astype(page.dtype.newbyteorder(order)).tobytes()
        content += b"\0" * (len(content) % 2)
        kind = {"u": 1, "i": 2, "f": 3}[page.dtype.kind]
        lists = {258: [8 * page.itemsize] * channels, 339: [kind] * channels}
        colors = 3 if channels >= 3 else 1
        if channels > colors:
            lists[338] = [0] * (channels - colors)  # extra samples of unspecified meaning
        tags: dict[int, tuple[int, int, bytes]] = {}
        for tag, value in (
            (256, width), (257, height), (259, 1), (262, 2 if colors == 3 else 1), (273, strip), (274, orientation),
            (277, channels), (278, height), (279, height * width * channels * page.itemsize), (284, 1),
        ):  # fmt: skip
            tags[tag] = (4, 1, struct.pack(f"{order}I", value))
        for tag, values in lists.items():
            tags[tag] = (3, len(values), struct.pack(f"{order}{len(values)}H", *values))
        for tag, (type_, count, data) in tags.items():
            if len(data) > 4:
                tags[tag] = (type_, count, struct.pack(f"{order}I", len(content)))
                content += data + b"\0" * (len(data) % 2)
        struct.pack_into(f"{order}I", content, link, len(content))
        content += struct.pack(f"{order}H", len(tags))
        for tag in sorted(tags):
            type_, count, data = tags[tag]
            content += struct.pack(f"{order}HHI", tag, type_, count) + data.ljust(4, b"\0")
        link = len(content)
        content += b"\0\0\0\0"
    return bytes(content)
