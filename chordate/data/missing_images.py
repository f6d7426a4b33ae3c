"""Finds the images of a dataset that do not exist, with one listing of each of their folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import hotcoco
import numpy as np
from numpy.typing import NDArray

from chordate.data.image_io import missing_file
from chordate.text import pluralize

SEARCHED = 100_000  # folders and files that are searched for an image of the same name


def find_missing(names: Sequence[str], folder: Path) -> NDArray[np.bool_]:
    """For each image name, a path relative to `folder`, whether the file is missing: `[len(names)]` bool."""
    listings: dict[str, set[str]] = {}
    missing = np.zeros(len(names), np.bool_)
    for number, name in enumerate(names):
        inside, last = os.path.split(name)
        if inside not in listings:
            listings[inside] = _list(folder / inside)
        # A file system may ignore case or Unicode normalization, so names that are not listed are tried.
        missing[number] = last not in listings[inside] and not (folder / name).is_file()
    return missing


def _list(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def describe_missing(missing: Sequence[str], total: int, folder: Path, root: Path) -> str:
    """The error message for missing images: the first one, where its name was found, and how to skip them.

    Args:
        missing: names of the missing images, relative to `folder`.
        total: number of images of the dataset.
        folder: the folder of the images.
        root: the folder in which the name is searched.
    """
    message = missing_file(folder / missing[0], "image")
    if len(missing) > 1:
        message += f"; {len(missing):,} of {pluralize(total, 'image')} are missing"
    found = _search(Path(missing[0]).name, root)
    if found is not None:
        message += f"; found {found}"
        images = found.as_posix().removesuffix(missing[0])
        if images != found.as_posix():
            message += f': set images="{os.path.relpath(images, root)}"'
    return f"{message}. skip_broken=True in the dataset leaves out missing images"


def describe_broken(errors: Sequence[str]) -> list[str]:
    """A list with one line about images that were left out because they cannot be read; empty if there are none."""
    return [f"{pluralize(len(errors), 'broken image')} left out, the first: {errors[0]}"] if errors else []


def _search(name: str, root: Path) -> Path | None:
    """The first file with this name under `root`, among the first `SEARCHED` entries; None if there is none."""
    entries = ((where, entry) for where, _, files in os.walk(root) for entry in files)
    return next((Path(where) / entry for where, entry in islice(entries, SEARCHED) if entry == name), None)


def without_images(coco: hotcoco.COCO, image_ids: set[int]) -> hotcoco.COCO:
    """The annotations without some images and their objects."""
    content = coco.dataset
    content["images"] = [image for image in content["images"] if image["id"] not in image_ids]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in image_ids]
    return hotcoco.COCO(content)
