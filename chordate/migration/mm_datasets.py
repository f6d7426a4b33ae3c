"""Converts the datasets of MMDetection and MMSegmentation configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from chordate.data.cityscapes import CITYSCAPES_THINGS
from chordate.data.voc_semantic import VOC_SEMANTIC_CLASSES
from chordate.migration.config_conversion import Keys
from chordate.text import printable

COCO_LIKE = ("CocoDataset", "CityscapesDataset", "LVISV1Dataset", "LVISV05Dataset", "LVISDataset")
SEMANTIC = ("ADE20KDataset", "PascalVOCDataset", "COCOStuffDataset")
# Dataset type and number of classes -> the name of these classes in `fallback_meta`.
NAMED = {("ADE20K", 150): "ade20k", ("CityscapesSemantic", 19): "cityscapes", ("VocSemantic", 21): "voc_semantic",
         ("CocoStuff", 171): "coco_stuff", ("CocoDataset", 80): "coco"}  # fmt: skip
# Numbers of classes in MMDetection's and MMSegmentation's METAINFO.
DETECTION_CLASSES = {"CocoDataset": 80, "VOCDataset": 20, "CityscapesDataset": 8, "LVISV1Dataset": 1203,
                     "LVISV05Dataset": 1230, "LVISDataset": 1230}  # fmt: skip
SEMANTIC_CLASSES = {"ADE20KDataset": 150, "PascalVOCDataset": 21, "COCOStuffDataset": 171, "CityscapesDataset": 19}


def unwrapped(dataset: Keys) -> tuple[Keys, int, float | None]:
    """The dataset inside wrappers, how often RepeatDataset repeats it, and the threshold of ClassBalancedDataset."""
    times, balanced = 1, None
    while dataset.get("type") in ("RepeatDataset", "ConcatDataset", "ClassBalancedDataset", "MultiImageMixDataset"):
        kind = dataset.get("type")
        times *= dataset.get("times", 1) if kind == "RepeatDataset" else 1
        if kind == "ClassBalancedDataset":
            balanced = dataset.get("oversample_thr")
        if kind == "MultiImageMixDataset":
            dataset.lose("type", "transforms that mix images are left out", "training")
            dataset.ignore("pipeline")
        if kind == "ConcatDataset":
            dataset.ignore("ignore_keys")
            parts = dataset.parts("datasets", least=1)
            for other in parts[1:]:
                other.ignore(*other.values)
            dataset = parts[0]
        else:
            dataset = dataset.part("dataset")
    return dataset, times, balanced


def class_count(outer: Keys, semantic: bool) -> int | None:
    """Number of classes of a dataset: of `metainfo.classes`, else of its type; None if that is not known."""
    dataset, _, _ = unwrapped(outer)
    names = dataset.part("metainfo").get("classes", None)
    return len(names) if names else (SEMANTIC_CLASSES if semantic else DETECTION_CLASSES).get(dataset.get("type"))


def dataset_part(outer: Keys, split: str, *, semantic: bool, classes: int) -> dict[str, Any]:
    """Convert a dataset to Chordate's.

    Args:
        outer: the setting `dataset` of a loader.
        split: "train" or "val".
        semantic: whether the dataset is MMSegmentation's.
        classes: number of classes of the model.
    """
    dataset, _, _ = unwrapped(outer)
    kind = dataset.get("type")
    prefix = dataset.part("data_prefix")
    names = dataset.part("metainfo").get("classes", None)
    root = dataset.get("data_root", None)
    if root:
        note = f"The data root is {root} (--data-root)."
        dataset.conversion.notes += [note] if note not in dataset.conversion.notes else []
    dataset.ignore("pipeline", "backend_args", "test_mode", "metainfo", "data_prefix", "serialize_data", "lazy_init")
    dataset.ignore("reduce_zero_label", "img_suffix", "seg_map_suffix", "return_classes", "proposal_file")
    filters = dataset.part("filter_cfg")
    # No image of the usual datasets is smaller than min_size. Chordate trains on boxes below bbox_min_size (VOC), which
    # MMDetection ignores in training.
    filters.ignore("min_size", "bbox_min_size")
    if semantic:
        part = _semantic(outer, dataset, prefix, kind, split, names or [f"class {number}" for number in range(classes)])
    elif kind == "VOCDataset":
        _only_first(outer, split)
        path = PurePosixPath(dataset.get("ann_file"))  # VOC2007/ImageSets/Main/trainval.txt
        part = {"type": "VocDataset", "folder": str(path.parent.parent.parent), "split": path.stem}
    elif kind == "CocoPanopticDataset":
        part = {"type": "CocoPanoptic", "annotations": dataset.get("ann_file"), "images": _folder(prefix, "img")}
    else:
        _only_first(outer, split)
        if kind not in COCO_LIKE:
            dataset.lose("type", "read as COCO annotations", "data")
        part = {"type": "CocoDataset", "annotations": dataset.get("ann_file"), "images": _folder(prefix, "img")}
    if filters.get("filter_empty_gt", False) and not semantic and part["type"] != "CocoPanoptic" and split == "train":
        part["filter_empty"] = True
    if names and "classes" not in part:
        part["classes"] = list(names)
    dataset.ignore("ann_file")
    return part


def meta_part(dataset: dict[str, Any], kind: str, classes: int, things: int | None) -> dict[str, Any]:
    """The section `fallback_meta`.

    Args:
        dataset: the training dataset.
        kind: type of the dataset in the other framework.
        classes: number of classes of the model.
        things: number of thing classes of a panoptic model.
    """
    if things is not None:
        return {"classes": "coco_panoptic", "stuff": "coco_panoptic"}
    if "classes" in dataset:
        return {}  # the dataset has the class names
    if dataset["type"] == "VocDataset" and classes == len(VOC_SEMANTIC_CLASSES) - 1:
        return {"classes": list(VOC_SEMANTIC_CLASSES[1:])}
    if kind == "CityscapesDataset" and classes == len(CITYSCAPES_THINGS):
        return {"classes": list(CITYSCAPES_THINGS)}
    return {"classes": NAMED.get((dataset["type"], classes), classes)}


def _semantic(
    outer: Keys, dataset: Keys, prefix: Keys, kind: str, split: str, classes: Sequence[str]
) -> dict[str, Any]:
    images, labels = _folder(prefix, "img_path"), _folder(prefix, "seg_map_path")
    last = PurePosixPath(images or "").name
    if kind == "ADE20KDataset":
        return {"type": "ADE20K", "split": last}
    if kind == "CityscapesDataset":
        return {"type": "CityscapesSemantic", "split": last}
    if kind == "COCOStuffDataset" and last in ("train2017", "val2017"):  # not COCO-Stuff 10k, of 2014
        return {"type": "CocoStuff", "split": last}
    if kind == "PascalVOCDataset":
        # MMSegmentation concatenates VOC's and SBD's images, which are one split in Chordate.
        name = "train_aug" if _concatenated(outer) else PurePosixPath(dataset.get("ann_file")).stem
        return {"type": "VocSemantic", "split": name}
    _only_first(outer, split)
    if "classes" in dataset.part("metainfo"):
        dataset.lose("type", "read as images and label maps with the same names", "data")
    else:
        dataset.lose("type", "class names are missing; set them in the datasets", "data")
    part = {"type": "SemanticFolder", "images": images, "labels": labels}
    if dataset.get("ann_file", None):
        part["files"] = dataset.get("ann_file")
    return part | {"classes": list(classes)}


def _concatenated(outer: Keys) -> Keys | None:
    """The ConcatDataset in wrappers of datasets; None if there is none."""
    dataset = outer
    while dataset.get("type") != "ConcatDataset":
        if "dataset" not in dataset:
            return None
        dataset = dataset.part("dataset")
    return dataset


def _only_first(outer: Keys, split: str) -> None:
    """Report the datasets of a ConcatDataset that are left out."""
    concatenated = _concatenated(outer)
    if concatenated is None:
        return
    first, *others = map(_dataset_name, concatenated.parts("datasets"))
    if others:
        reason = f"only {first} is read, not {', '.join(others)}"
        concatenated.lose("type", reason, "training" if split == "train" else "data")


def _dataset_name(dataset: Keys) -> str:
    inner, _, _ = unwrapped(dataset)
    return printable(inner.get("ann_file", None) or inner.get("data_root", None) or inner.get("type"))


def _folder(prefix: Keys, key: str) -> str | None:
    """A folder without a slash at its end; None if it is missing."""
    path: str | None = prefix.get(key, None)
    return path.rstrip("/") if path is not None else None
