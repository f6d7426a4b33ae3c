"""Holds out a fraction of a dataset's files for validation; the files are chosen by a hash of their names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from zlib import crc32


def held_out_part(files: Sequence[str], fraction: float, split: Literal["train", "val"]) -> list[str]:
    """The files of one split, the same in every call. "val" has a `fraction` of the files, and at least one if there
    are two or more."""
    drawn = sorted(files, key=lambda file: (crc32(Path(file).as_posix().encode()), file))
    count = min(max(1, round(fraction * len(files))), len(files) - 1)
    return drawn[:count] if split == "val" else drawn[count:]
