"""Names of files that are written per image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def output_names(images: Sequence[str | Path]) -> list[str]:
    """Distinct names, without suffix, for one output file per image.

    A name is the path of the image in the common folder of all images, so that `a/1.jpg` and `b/1.jpg` keep their
    folders. Of images whose names differ only in the suffix, the first has the plain name, and the others get the first
    number that is free: `1.jpg`, `1.png` and `1_1.jpg` become `1`, `1_2` and `1_1`.

    Returns:
        One path per image, relative and with slashes.
    """
    paths = [os.path.abspath(image) for image in images]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    plain = [Path(os.path.relpath(path, root)).with_suffix("").as_posix() for path in paths]
    reserved, given, names = set(plain), set[str](), []
    for stem in plain:
        name, number = stem, 0
        while name in given or (number and name in reserved):
            number += 1
            name = f"{stem}_{number}"
        given.add(name)
        names.append(name)
    return names
