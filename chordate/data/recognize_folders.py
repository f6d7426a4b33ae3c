"""Recognizes datasets without annotation files: images with label images of the same names, and class folders."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from chordate.data.image_files import image_stem
from chordate.data.image_folder import subfolders
from chordate.data.label_files import format_color, pack_colors, read_label_image
from chordate.data.recognition import (
    SPLITS,
    Folder,
    FoundSet,
    Recognition,
    Recognizer,
    find_folders,
    relative,
    with_suffix,
)
from chordate.data.recognize_annotations import recognize_json, recognize_voc, recognize_yolo
from chordate.data.recognize_layouts import recognize_cityscapes, recognize_paired
from chordate.data.zip_files import split_archive
from chordate.errors import DataError

MAX_VALUES = 64  # an image with more values or colors is no label image
SAMPLES = 3  # number of files per folder that `_has_label_images` reads
IGNORED = 255
LABEL_WORDS = ("label", "mask", "annot", "seg", "gt", "truth")
# Names of folders that are not classes.
STRUCTURE = ("images", "imgs", "jpegimages", "annotations", "labels", "masks", *SPLITS)


def recognize_semantic(path: Path) -> Recognition | None:
    """Folders of images, and folders of label images with the same names (optionally with a suffix such as `_mask`).

    The classes are the values (or colors) in the label files; 255 is ignored if there are more than two values.
    """
    if not path.is_dir():
        return None
    folders = [folder for folder in find_folders(path) if folder.images]
    labels = [folder for folder in folders if _has_label_images(folder)]
    pairs = [pair for folder in labels for pair in _images_of(folder, folders, labels)]
    if not pairs:
        return None
    ids, colors = _values([file for _, folder, suffix in pairs for file in with_suffix([folder], suffix.lower())])
    settings: dict[str, Any] = {"type": "SemanticFolder", "ignored_ids": []}
    if IGNORED in ids and len(ids) > 2:
        ids, settings["ignored_ids"] = [value for value in ids if value != IGNORED], [IGNORED]
    classes = [f"value {value}" for value in ids]
    if colors:
        classes, ids = [f"color {format_color(color)}" for color in colors], []
        settings["palette"] = [(color >> 16, color >> 8 & 255, color & 255) for color in colors]
    settings |= {"classes": classes, **({"ids": ids} if ids else {})}
    sets = []
    for images, folder, suffix in pairs:
        own = {"images": relative(images.path, path), "labels": relative(folder.path, path), "label_suffix": suffix}
        sets.append(FoundSet(own["images"], settings | own))
    words = ", ".join(f"{found.settings['images']}/ with {found.settings['labels']}/" for found in sets[:3])
    what = "colors" if colors else "values"
    kind = f"semantic segmentation ({words}{' …' if len(sets) > 3 else ''}; {len(classes)} {what} are the classes)"
    return Recognition(kind, path, sets)


def _has_label_images(folder: Folder) -> bool:
    """Whether up to `SAMPLES` files are all label images: at most `MAX_VALUES` values or colors each, and not JPEG."""
    files = folder.images[:: max(1, len(folder.images) // SAMPLES)][:SAMPLES]
    return all(_is_label_image(folder.path / name) for name in files)


def _is_label_image(file: Path) -> bool:
    try:
        pixels = read_label_image(file)
    except DataError:
        return False
    values = pack_colors(pixels.astype(np.uint8)) if pixels.ndim == 3 else pixels
    return len(np.unique(values)) <= MAX_VALUES


def _images_of(
    labels: Folder, folders: Sequence[Folder], all_labels: Sequence[Folder]
) -> list[tuple[Folder, Folder, str]]:
    """Find the image folder of a folder of label images.

    Returns:
        A list of one tuple (image folder, label folder, suffix of the label files after the image's name), or an empty
        list if no folder fits.
    """
    named = any(word in relative(labels.path, labels.path.parents[1]).lower() for word in LABEL_WORDS)
    candidates = [other for other in folders if other is not labels and (other not in all_labels or named)]
    found = []
    for other in candidates:
        if other in all_labels and any(word in other.path.name.lower() for word in LABEL_WORDS):
            continue
        first = image_stem(other.images[0])
        name = next((name for name in labels.images if name.startswith(first)), None)
        if name is None:
            continue
        suffix = name[len(first) :]
        stems = {name.removesuffix(suffix) for name in labels.images if name.endswith(suffix)}
        common = len(stems & set(map(image_stem, other.images)))
        if 2 * common > len(labels.images):
            found.append((common, other, suffix))
    if not found:
        return []
    _, images, suffix = max(found, key=lambda row: (row[0], _shared(row[1].path, labels.path)))
    return [(images, labels, suffix)]


def _shared(one: Path, other: Path) -> int:
    """The number of path components that two paths share, such as the name of the split."""
    return len({*one.parts} & {*other.parts})


def _values(files: Sequence[Path]) -> tuple[list[int], list[int]]:
    """All values and all packed colors in label files. Unreadable files are left out; `chordate check` reports them."""
    ids: set[int] = set()
    colors: set[int] = set()
    with ThreadPoolExecutor() as pool:
        for has_colors, values in pool.map(_values_of, files):
            (colors if has_colors else ids).update(values)
    return sorted(ids), sorted(colors)


def _values_of(file: Path) -> tuple[bool, list[int]]:
    try:
        pixels = read_label_image(file)
    except DataError:
        return False, []
    if pixels.ndim == 3:
        return True, np.unique(pack_colors(pixels.astype(np.uint8))).tolist()
    return False, np.unique(pixels).tolist()


def recognize_classes(path: Path) -> Recognition | None:
    """Folders named after classes, in split folders (`train/`, `val/`, …) or directly in a folder; also in a zip."""
    if not path.is_dir() and split_archive(path)[0] is None:
        return None
    root, names = path, subfolders(path)
    while len(names) == 1 and names[0].lower() not in SPLITS and subfolders(root / names[0]):
        root = root / names[0]
        names = subfolders(root)
    splits = [name for name in names if name.lower() in SPLITS and _are_classes(root / name)]
    if splits:
        sets = [FoundSet(name, {"type": "ImageFolder", "images": name}) for name in splits]
        return Recognition(f"class folders ({', '.join(f'{name}/<class>/' for name in splits)})", root, sets)
    if _are_classes(root):
        found = FoundSet("all images", {"type": "ImageFolder", "images": "."})
        return Recognition("class folders (<class>/)", root, [found])
    return None


def _are_classes(root: Path) -> bool:
    """Whether the subfolders of a folder are classes.

    At least two subfolders, and more than half of them, must have names that are not in `STRUCTURE`, and one of these
    must contain images (not checked in a zip).
    """
    names = subfolders(root)
    plain = [name for name in names if name.lower().rstrip("0123456789_-") not in STRUCTURE]
    if len(plain) < 2 or 2 * len(plain) <= len(names):
        return False
    archive, _ = split_archive(root)
    return archive is not None or any(folder.images for name in plain for folder in find_folders(root / name))


# The recognizers in the order in which they are tried. Each key describes the files that the recognizer looks for.
RECOGNIZERS: dict[str, Recognizer] = {
    "leftImg8bit/ beside gtFine/ (Cityscapes)": recognize_cityscapes,
    'JSON files with "images", "annotations" and "categories" (COCO, COCO panoptic)': recognize_json,
    "XML files with <annotation>, or SegmentationClass/ (Pascal VOC)": recognize_voc,
    "data.yaml with names, or labels/*.txt beside images/ (YOLO)": recognize_yolo,
    "images/ and annotations/ with the file names of ADE20K or COCO-Stuff": recognize_paired,
    "images with label images of the same names in another folder (semantic segmentation)": recognize_semantic,
    "two or more folders of images, named after classes (classification)": recognize_classes,
}
