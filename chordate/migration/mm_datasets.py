"""Converts the datasets of MMDetection and MMSegmentation configs."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from chordate.data.cityscapes import CITYSCAPES_THINGS
from chordate.data.voc_semantic import VOC_SEMANTIC_CLASSES
from chordate.migration.concatenation import concatenated
from chordate.migration.config_conversion import Keys
from chordate.text import printable

COCO_LIKE = ("CocoDataset", "CityscapesDataset", "LVISV1Dataset", "LVISV05Dataset", "LVISDataset")
# Settings of datasets that are relative to the data root.
PATHS = ("annotations", "images", "labels", "files", "folder", "segments")
# Dataset type and number of classes -> the name of these classes in `fallback_meta`.
NAMED = {("ADE20K", 150): "ade20k", ("CityscapesSemantic", 19): "cityscapes", ("VocSemantic", 21): "voc_semantic",
         ("CocoStuff", 171): "coco_stuff", ("CocoDataset", 80): "coco"}  # fmt: skip
# Numbers of classes in MMDetection's and MMSegmentation's METAINFO.
DETECTION_CLASSES = {"CocoDataset": 80, "VOCDataset": 20, "CityscapesDataset": 8, "LVISV1Dataset": 1203,
                     "LVISV05Dataset": 1230, "LVISDataset": 1230}  # fmt: skip
SEMANTIC_CLASSES = {"ADE20KDataset": 150, "PascalVOCDataset": 21, "COCOStuffDataset": 171, "CityscapesDataset": 19}


class Unwrapped(NamedTuple):
    """The datasets inside wrappers.

    Attributes:
        datasets: one dataset, or those of a ConcatDataset.
        times: how often RepeatDataset repeats them.
        balanced: the threshold of ClassBalancedDataset, or None.
    """

    datasets: list[Keys]
    times: int = 1
    balanced: float | None = None


def unwrapped(dataset: Keys) -> Unwrapped:
    """The datasets inside the wrappers of a loader's setting `dataset`."""
    kind = dataset.get("type")
    if kind == "ConcatDataset":
        dataset.ignore("ignore_keys", "lazy_init")
        return _concatenated([unwrapped(part) for part in dataset.parts("datasets", least=1)])
    if kind not in ("RepeatDataset", "ClassBalancedDataset", "MultiImageMixDataset"):
        return Unwrapped([dataset])
    inner = unwrapped(dataset.part("dataset"))
    dataset.ignore("lazy_init")
    if kind == "RepeatDataset":
        return inner._replace(times=inner.times * dataset.get("times", 1))
    if kind == "ClassBalancedDataset":
        return inner._replace(balanced=dataset.get("oversample_thr"))
    dataset.lose("type", "transforms that mix images are left out", "training")
    dataset.ignore("pipeline")
    return inner


def _concatenated(parts: list[Unwrapped]) -> Unwrapped:
    """The datasets of a ConcatDataset; reports wrappers that not all of them have."""
    first, *others = parts
    for other in others:
        (dataset,) = other.datasets[:1]
        if (other.times, other.balanced) != (first.times, first.balanced):
            dataset.lose("type", "repeated and balanced like the first dataset", "training")
        if dataset.values.get("pipeline") != first.datasets[0].values.get("pipeline"):
            dataset.lose("pipeline", "all datasets have the pipeline of the first one", "training")
    return first._replace(datasets=[dataset for part in parts for dataset in part.datasets])


def class_count(outer: Keys, semantic: bool) -> int | None:
    """Number of classes of a dataset: of `metainfo.classes`, else of its type; None if that is not known."""
    dataset = unwrapped(outer).datasets[0]
    names = dataset.part("metainfo").get("classes", None)
    return len(names) if names else (SEMANTIC_CLASSES if semantic else DETECTION_CLASSES).get(dataset.get("type"))


def smallest_box(dataset: Keys) -> int | None:
    """The smallest width and height in pixels of the boxes of VOC's format that MMDetection trains on; None if any.

    MMDetection's width is xmax - xmin, ours xmax - xmin + 1, since VOC's boxes include their last pixel.
    """
    size = dataset.part("filter_cfg").get("bbox_min_size", None)
    return size + 1 if size and dataset.get("type") == "VOCDataset" else None


def dataset_part(outer: Keys, root: str | None, split: str, *, semantic: bool, classes: int) -> dict[str, Any]:
    """Convert a dataset to Chordate's.

    Args:
        outer: the setting `dataset` of a loader.
        root: the new config's data root, see `data_root`.
        split: "train" or "val".
        semantic: whether the dataset is MMSegmentation's.
        classes: number of classes of the model.
    """
    first, *others = datasets = unwrapped(outer).datasets
    if others and split == "val":
        outer.lose("type", f"only {_name(first)} is read, not {', '.join(map(_name, others))}", "evaluation")
        for other in others:
            other.ignore(*other.values)
        datasets = [first]
    parts = [_convert(dataset, root, split, semantic, classes) for dataset in datasets]
    if parts[0]["type"] == "VocSemantic" and sorted(str(part.get("split")) for part in parts) == ["aug", "train"]:
        # The images of VOC and SBD are one split in Chordate. SBD's labels are in the folder `SegmentationClassAug`.
        unions = [part | {"split": "train_aug"} for part in parts]
        if unions[0] == unions[1]:
            return unions[0]
    return concatenated(parts)


def data_root(*outers: Keys) -> str | None:
    """The innermost folder that contains the data roots of all datasets; None if one has none. The paths of the
    converted datasets are relative to it."""
    datasets = [dataset for outer in outers for dataset in unwrapped(outer).datasets]
    roots = {dataset.get("data_root", None) for dataset in datasets}
    if len(roots) == 1:
        return next(iter(roots))
    if None in roots or len({PurePosixPath(root).is_absolute() for root in roots}) > 1:
        return None
    return posixpath.commonpath(roots) or None


def _convert(dataset: Keys, root: str | None, split: str, semantic: bool, classes: int) -> dict[str, Any]:
    """Convert a dataset without wrappers; for the arguments see `dataset_part`."""
    kind = dataset.get("type")
    prefix = dataset.part("data_prefix")
    names = dataset.part("metainfo").get("classes", None)
    dataset.ignore("pipeline", "backend_args", "test_mode", "metainfo", "data_prefix", "serialize_data", "lazy_init")
    dataset.ignore("reduce_zero_label", "img_suffix", "seg_map_suffix", "return_classes", "proposal_file", "data_root")
    filters = dataset.part("filter_cfg")
    filters.ignore("bbox_min_size")  # read by `smallest_box`; only for VOC's format
    if filters.get("min_size", 0) and (names or kind not in DETECTION_CLASSES):  # the usual datasets have larger images
        filters.lose("min_size", "images of any size are read", "data")
    if semantic:
        part = _semantic(dataset, prefix, kind, names or [f"class {number}" for number in range(classes)])
    elif kind == "VOCDataset":
        part = _voc(dataset, _folder(prefix, "sub_data_root") or ".")
    elif kind == "CocoPanopticDataset":
        part = {"type": "CocoPanoptic", "annotations": dataset.get("ann_file"), "images": _folder(prefix, "img")}
        segments = _folder(prefix, "seg")
        if segments and f"{segments}.json" != part["annotations"]:
            part["segments"] = segments
    else:
        if kind not in COCO_LIKE:
            dataset.lose("type", "read as COCO annotations", "data")
        part = {"type": "CocoDataset", "annotations": dataset.get("ann_file"), "images": _folder(prefix, "img")}
    if filters.get("filter_empty_gt", False) and not semantic and part["type"] != "CocoPanoptic" and split == "train":
        part["filter_empty"] = True
    if names and part["type"] in ("CocoDataset", "VocDataset"):
        part["classes"] = list(names)
    elif names and "classes" not in part:
        same = len(names) == SEMANTIC_CLASSES.get(kind, len(names))
        dataset.lose("metainfo", f"{part['type']} has its own classes", "data" if same else "predictions")
    dataset.ignore("ann_file")
    return part | _below(root, dataset.get("data_root", None), part)


def _voc(dataset: Keys, folder: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "VocDataset", "folder": folder}
    file = PurePosixPath(posixpath.relpath(dataset.get("ann_file"), folder))
    part["split"] = file.stem if str(file) == f"ImageSets/Main/{file.stem}.txt" else str(file)
    for key, name, default in (("img_subdir", "images", "JPEGImages"), ("ann_subdir", "annotations", "Annotations")):
        if dataset.get(key, default) != default:
            part[name] = dataset.get(key)
    return part


def _below(root: str | None, own: str | None, part: dict[str, Any]) -> dict[str, Any]:
    """The paths of a converted dataset, relative to the folder `root` that contains its data root `own`."""
    inner = own if root is None else posixpath.relpath(own or root, root)
    if inner in (None, "."):
        return {}
    paths = ("folder",) if part["type"] == "VocDataset" else PATHS  # its other paths are relative to the folder
    return {key: posixpath.normpath(posixpath.join(inner, part[key])) for key in paths if part.get(key) is not None}


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


def _semantic(dataset: Keys, prefix: Keys, kind: str, classes: Sequence[str]) -> dict[str, Any]:
    images, labels = _folder(prefix, "img_path"), _folder(prefix, "seg_map_path")
    last = PurePosixPath(images or "").name
    if kind == "ADE20KDataset":
        return {"type": "ADE20K", "split": last, "folder": _folder_with(prefix, images, f"images/{last}")}
    if kind == "CityscapesDataset":
        folder = _folder_with(prefix, images, f"leftImg8bit/{last}")
        return {"type": "CityscapesSemantic", "split": last, "folder": folder}
    if kind == "COCOStuffDataset" and last in ("train2017", "val2017"):  # not COCO-Stuff 10k, of 2014
        folders = [posixpath.dirname(folder or "") or "." for folder in (images, labels)]
        return {"type": "CocoStuff", "split": last, "images": folders[0], "labels": folders[1]}
    if kind == "PascalVOCDataset":
        split = PurePosixPath(dataset.get("ann_file")).stem
        return {"type": "VocSemantic", "split": split, "folder": _folder_with(prefix, images, "JPEGImages")}
    if "classes" in dataset.part("metainfo"):
        dataset.lose("type", "read as images and label maps with the same names", "data")
    else:
        dataset.lose("type", "class names are missing; set them in the datasets", "data")
    part: dict[str, Any] = {"type": "SemanticFolder", "images": images, "labels": labels}
    for theirs, ours in (("ann_file", "files"), ("img_suffix", "image_suffix"), ("seg_map_suffix", "label_suffix")):
        if dataset.get(theirs, None):
            part[ours] = dataset.get(theirs)
    part["classes"] = list(classes)
    if dataset.get("reduce_zero_label", False):
        part |= {"ids": list(range(1, len(classes) + 1)), "ignored_ids": [0, 255]}
    return part


def _folder_with(prefix: Keys, images: str | None, inner: str) -> str:
    """The folder that contains the folder `inner` of a dataset with a fixed layout, such as `images/training`.

    Args:
        prefix: the dataset's `data_prefix`; another layout is reported.
        images: its folder of images.
        inner: where Chordate's dataset reads them.
    """
    if images is None or not f"/{images}".endswith(f"/{inner}"):
        prefix.lose("img_path", f"images are read from {inner}", "data")
        return "."
    return posixpath.normpath(images.removesuffix(inner) or ".")


def _name(dataset: Keys) -> str:
    return printable(dataset.get("ann_file", None) or dataset.get("data_root", None) or dataset.get("type"))


def _folder(prefix: Keys, key: str) -> str | None:
    """A folder without a slash at its end; None if it is missing."""
    path: str | None = prefix.get(key, None)
    return path.rstrip("/") if path is not None else None
