"""Recognizes published segmentation datasets by the names of their folders and files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chordate.data.recognition import Folder, FoundSet, Recognition, find_folders, relative

CITYSCAPES_SPLITS = ("train", "val")  # the labels of "test" are not public
VOC_SPLITS = ("train", "val", "trainval")
# Key: the dataset's `type`. Values: a description, a pattern of the label files' names, and the splits.
PAIRED = {
    "ADE20K": ("ADE20K (ADEChallengeData2016)", "ADE_*.png", ("training", "validation")),
    "CocoStuff": ("COCO-Stuff (stuffthingmaps)", "0" * 6 + "[0-9]" * 6 + ".png", ("train2017", "val2017")),
}


def recognize_cityscapes(path: Path) -> Recognition | None:
    """Cityscapes: `leftImg8bit/` beside `gtFine/`, with semantic labels, panoptic annotations, or both."""
    for root in _folders_with(path, "leftImg8bit", "gtFine"):
        splits = [split for split in CITYSCAPES_SPLITS if (root / "leftImg8bit" / split).is_dir()]
        labels = {
            "Semantic": [s for s in splits if next((root / "gtFine" / s).glob("*/*_labelIds.png"), None) is not None],
            "Panoptic": [s for s in splits if (root / "gtFine" / f"cityscapes_panoptic_{s}.json").is_file()],
        }
        sets = [
            FoundSet(f"{kind.lower()} {split}", _settings(f"Cityscapes{kind}", split))
            for kind, labeled in labels.items()
            for split in labeled
        ]
        if sets:
            return Recognition("Cityscapes (leftImg8bit/ and gtFine/)", root, sets)
    return None


def recognize_paired(path: Path) -> Recognition | None:
    """ADE20K and COCO-Stuff: `images/<split>/` beside `annotations/<split>/`, with label PNGs named as in `PAIRED`."""
    for root in _folders_with(path, "images", "annotations"):
        for name, (kind, pattern, splits) in PAIRED.items():
            labeled = [s for s in splits if next((root / "annotations" / s).glob(pattern), None) is not None]
            if labeled:
                return Recognition(kind, root, [FoundSet(split, _settings(name, split)) for split in labeled])
    return None


def voc_semantic_sets(path: Path, folders: list[Folder]) -> Iterator[FoundSet]:
    """One FoundSet per split of each folder that has `SegmentationClass/` and `ImageSets/Segmentation/*.txt`.

    Their setting `folder` is relative to `path`.
    """
    for folder in folders:
        lists = folder.path / "ImageSets" / "Segmentation"
        if (folder.path / "SegmentationClass").is_dir():
            where = relative(folder.path, path)
            prefix = "semantic" if where == "." else f"{where} semantic"
            for split in VOC_SPLITS:
                if (lists / f"{split}.txt").is_file():
                    yield FoundSet(f"{prefix} {split}", _settings("VocSemantic", split) | {"folder": where})


def _settings(dataset: str, split: str) -> dict[str, Any]:
    return {"type": dataset, "split": split}


def _folders_with(path: Path, *names: str) -> Iterator[Path]:
    """The folders at or below `path` that have subfolders with all these names."""
    if path.is_dir():
        yield from (folder.path for folder in find_folders(path) if all((folder.path / n).is_dir() for n in names))
