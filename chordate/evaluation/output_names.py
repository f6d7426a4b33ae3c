"""Names of files that are written per image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def output_names(images: Sequence[str | Path]) -> list[str]:
    """A distinct output name for each image: its path in the common folder of all images, without the suffix.

    `a/1.jpg` and `b/1.jpg` keep their folders. Equal names are numbered as in `distinct_names`.
    """
    paths = [os.path.abspath(image) for image in images]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return distinct_names([os.path.relpath(path, root) for path in paths])


def distinct_names(files: Sequence[str]) -> list[str]:
    """The relative paths of files, without suffixes and with `/` as separator; equal paths are numbered.

    The first of several equal paths keeps its name, the others get the first number that is free: `1.jpg`, `1.png` and
    `1_1.jpg` become `1`, `1_2` and `1_1`.
    """
    plain = [Path(file).with_suffix("").as_posix() for file in files]
    reserved, used, names = set(plain), set[str](), []
    for stem in plain:
        name, number = stem, 0
        while name in used or (number and name in reserved):
            number += 1
            name = f"{stem}_{number}"
        used.add(name)
        names.append(name)
    return names
