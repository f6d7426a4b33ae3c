"""Reports the missing image files of a dataset, or leaves them out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import hotcoco
import numpy as np
from numpy.typing import NDArray

from chordate.data.file_listing import FileListing
from chordate.data.paths import missing_file
from chordate.errors import DataError
from chordate.text import first_names, pluralize

SEARCHED = 100_000  # maximum number of files that are compared with the name of a missing image


def report_missing(
    names: Sequence[str],
    missing: NDArray[np.bool_],
    folder: Path,
    root: str | Path,
    skip_broken: bool,
    kind: str = "image",
) -> str:
    """One line about missing images that are left out.

    Args:
        names: names of all images, relative to `folder`.
        missing: `[len(names)]` bool, whether each file is missing.
        folder: the folder of the images.
        root: the folder that is searched for a file with the name of the first missing image.
        skip_broken: whether missing images may be left out.
        kind: kind of the files, for messages: "image", or "panoptic" for panoptic PNGs.

    Raises:
        DataError: `skip_broken` is false, or all images are missing; the message includes the result of the search.
    """
    noun, setting = ("image", "images") if kind == "image" else (f"{kind} PNG", "segments")
    absent = [name for name, is_missing in zip(names, missing) if is_missing]
    count = f"{len(absent):,} of {pluralize(len(names), noun)}"
    if skip_broken and len(absent) < len(names):
        return f"{folder}: {count} are missing and left out ({first_names(absent)})"
    message = missing_file(folder / absent[0], kind)
    if len(absent) > 1:
        message += f"; {count} are missing"
    namesake = _search(Path(absent[0]).name, Path(root))
    if namesake is not None:
        message += f"; found {namesake}: {_remedy(names, absent[0], namesake, Path(root), setting)}"
    stop = "" if message.endswith("?") else "."
    raise DataError(f"{message}{stop} skip_broken=True in the dataset leaves out missing images")


def _remedy(names: Sequence[str], absent: str, namesake: Path, root: Path, setting: str) -> str:
    """What to do if the file `absent` was found at `namesake`: another folder is the remedy if it has all files."""
    folder = Path(namesake.as_posix().removesuffix(absent))
    if folder != namesake:
        listing = FileListing(folder)
        if all(name in listing for name in names):
            return f'set {setting}="{os.path.relpath(folder, root)}"'
    return "move the file, or correct its file_name"


def describe_broken(errors: Sequence[str]) -> list[str]:
    """A list with one line about images that were left out because they cannot be read; empty if there are none."""
    return [f"{pluralize(len(errors), 'broken image')} left out, the first: {errors[0]}"] if errors else []


def _search(name: str, root: Path) -> Path | None:
    """The first file with this name among the first `SEARCHED` files under `root`; None if there is none."""
    entries = ((where, entry) for where, _, files in os.walk(root) for entry in files)
    matches = (Path(where) / entry for where, entry in islice(entries, SEARCHED) if entry == name)
    return next((path for path in matches if path.is_file()), None)


def without_images(coco: hotcoco.COCO, image_ids: set[int]) -> hotcoco.COCO:
    """The annotations without the images `image_ids` and their objects."""
    content = coco.dataset
    content["images"] = [image for image in content["images"] if image["id"] not in image_ids]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in image_ids]
    return hotcoco.COCO(content)
