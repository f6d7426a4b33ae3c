"""Converts the names of Detectron2's built-in datasets (its data/datasets/builtin.py) to datasets of Chordate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from chordate.data.cityscapes import CITYSCAPES_THINGS
from chordate.data.coco_classes import COCO_STUFF
from chordate.data.voc_semantic import VOC_SEMANTIC_CLASSES
from chordate.migration.concatenation import concatenated
from chordate.migration.config_conversion import Keys
from chordate.text import pluralize, printable

Dataset = dict[str, Any]
VOC_CLASSES = VOC_SEMANTIC_CLASSES[1:]  # without the background


def convert_dataset(cfg: Keys, task: str) -> tuple[Dataset, Dataset, dict[str, Any]]:
    """Convert the section `DATASETS` to the training dataset, the validation dataset and `fallback_meta`.

    Args:
        cfg: the whole config.
        task: "detection", "instance", "keypoint", "panoptic" or "semantic".
    """
    datasets, loader = cfg.part("DATASETS"), cfg.part("DATALOADER")
    names = {key: _names(datasets.get(key)) or [key.lower()] for key in ("TRAIN", "TEST")}
    if others := names["TEST"][1:]:
        first = names["TEST"][0]
        datasets.lose("TEST", printable(f"only {first} is read, not {', '.join(others)}", 120), "evaluation")
    train = [_dataset(datasets, "TRAIN", name, task) for name in names["TRAIN"]]
    val = _dataset(datasets, "TEST", names["TEST"][0], task)
    if _named(names["TRAIN"][0], task):
        _compare_classes(cfg.part("MODEL"), task, train[0], names["TRAIN"][0])
    if task in ("detection", "instance", "keypoint") and loader.get("FILTER_EMPTY_ANNOTATIONS"):
        for dataset in train:
            dataset["filter_empty"] = True
    for dataset in train:
        if dataset["type"] == "VocDataset":
            dataset["ignore_difficult"] = False
    if task == "instance" and val["type"] == "CocoDataset":
        del val["masks"]  # the metric reads masks from the annotation file
    datasets.ignore("PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST")
    return concatenated(train), val, _meta(cfg, task, train[0])


def _names(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _dataset(datasets: Keys, key: str, name: str, task: str) -> Dataset:
    """The dataset with this name in Detectron2, with placeholders for the paths if the name is unknown."""
    dataset = _named(name, task)
    if dataset is None:
        datasets.lose(key, f"{printable(name)} is unknown to Chordate: set annotations and images", "data")
        dataset = {"type": "CocoDataset", "annotations": f"annotations/{name}.json", "images": name}
    if dataset["type"] in ("CocoDataset", "VocDataset") and task == "instance":
        dataset["masks"] = True
    if task == "keypoint":
        dataset["keypoints"] = True
    return dataset


def _named(name: str, task: str) -> Dataset | None:
    coco = re.fullmatch(r"(keypoints_)?coco_(2014|2017)_(train|val|val_100)(_panoptic_\w+)?", name)
    if coco:
        keypoints, year, split, panoptic = coco.groups()
        images, suffix = f"{split.removesuffix('_100')}{year}", f"{split.partition('_')[0]}{year}"
        suffix += "_100" if split.endswith("_100") else ""
        if panoptic == "_panoptic_stuffonly":
            return {
                "type": "SemanticFolder",
                "images": images,
                "labels": f"panoptic_stuff_{suffix}",
                "classes": ["things", *COCO_STUFF],
            }
        if panoptic:
            return {"type": "CocoPanoptic", "annotations": f"annotations/panoptic_{suffix}.json", "images": images}
        kind = "person_keypoints" if keypoints else "instances"
        return {"type": "CocoDataset", "annotations": f"annotations/{kind}_{suffix}.json", "images": images}
    voc = re.fullmatch(r"voc_(2007|2012)_(train|val|trainval|test)", name)
    if voc:
        return {"type": "VocDataset", "folder": f"VOC{voc[1]}", "split": voc[2]}
    cityscapes = re.fullmatch(r"cityscapes_fine_(sem_seg|panoptic)_(train|val)", name)
    if cityscapes:
        kind = "CityscapesSemantic" if cityscapes[1] == "sem_seg" else "CityscapesPanoptic"
        return {"type": kind, "split": cityscapes[2]}
    return None


def _compare_classes(model: Keys, task: str, dataset: Dataset, name: str) -> None:
    """Report the heads whose number of classes differs from that of the training dataset with this name."""
    region_head = "RETINANET" if model.get("META_ARCHITECTURE") == "RetinaNet" else "ROI_HEADS"
    counts = {
        "CocoDataset": {region_head: 1 if task == "keypoint" else 80},
        "CocoPanoptic": {region_head: 80, "SEM_SEG_HEAD": 1 + len(COCO_STUFF)},  # all things are one class
        "VocDataset": {region_head: len(VOC_CLASSES)},
        "CityscapesSemantic": {"SEM_SEG_HEAD": 19},
        "SemanticFolder": {"SEM_SEG_HEAD": len(dataset.get("classes", ()))},
    }
    for head, count in counts.get(dataset["type"], {}).items():
        if model.part(head).get("NUM_CLASSES") != count:
            reason = f"{printable(name)} has {pluralize(count, 'class')}, and so has the model trained on it"
            model.part(head).lose("NUM_CLASSES", reason)


def _meta(cfg: Keys, task: str, dataset: Dataset) -> dict[str, Any]:
    """The section `fallback_meta`: class names where they are known, else the number of classes."""
    if task == "panoptic":
        return {"classes": "coco_panoptic", "stuff": "coco_panoptic"}
    if task == "keypoint":
        return {"classes": ["person"], "skeleton": "coco"}
    model = cfg.part("MODEL")
    if task == "semantic":
        count = model.part("SEM_SEG_HEAD").get("NUM_CLASSES")
        if dataset["type"] == "SemanticFolder" and count == len(dataset["classes"]):
            return {}  # the dataset has the class names
        return {"classes": "cityscapes" if dataset["type"] == "CityscapesSemantic" and count == 19 else count}
    retina = model.get("META_ARCHITECTURE") == "RetinaNet"
    count = model.part("RETINANET" if retina else "ROI_HEADS").get("NUM_CLASSES")
    if count == 80 and dataset["type"] == "CocoDataset":
        return {"classes": "coco"}
    if count == len(VOC_CLASSES) and dataset["type"] == "VocDataset":
        return {"classes": list(VOC_CLASSES)}
    names = cfg.part("DATASETS").get("TRAIN")
    if count == len(CITYSCAPES_THINGS) and "cityscapes" in str(names):
        return {"classes": list(CITYSCAPES_THINGS)}
    return {"classes": count}
