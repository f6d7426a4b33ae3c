"""Builds the metadata of models that are built without a dataset, from a config's `fallback_meta`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chordate.arguments import Names, PositiveInt, validate_settings, validate_value
from chordate.composition import Section, as_section, located
from chordate.data.ade20k import ADE20K_CLASSES
from chordate.data.cityscapes import CITYSCAPES_CLASSES, CITYSCAPES_STUFF, CITYSCAPES_THINGS
from chordate.data.coco_classes import COCO_CLASSES, COCO_SKELETON, COCO_STUFF
from chordate.data.coco_stuff import COCO_STUFF_CLASSES
from chordate.data.image_folder import imagenet_classes
from chordate.data.voc_semantic import VOC_SEMANTIC_CLASSES
from chordate.errors import ConfigError, DataError, unknown
from chordate.structures import DatasetMeta, Skeleton
from chordate.structures.metadata import numbered_names

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The values that `fallback_meta` can give by name, keyed by field of DatasetMeta.
NAMED: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "classes": {
        "coco": lambda: COCO_CLASSES,
        "coco_panoptic": lambda: COCO_CLASSES + COCO_STUFF,
        "imagenet": imagenet_classes,
        "cifar10": lambda: CIFAR10_CLASSES,
        "ade20k": lambda: ADE20K_CLASSES,
        "cityscapes": lambda: CITYSCAPES_CLASSES,
        "cityscapes_panoptic": lambda: CITYSCAPES_THINGS + CITYSCAPES_STUFF,
        "voc_semantic": lambda: VOC_SEMANTIC_CLASSES,
        "coco_stuff": lambda: COCO_STUFF_CLASSES,
    },
    "skeleton": {"coco": lambda: COCO_SKELETON},
    "stuff": {"coco_panoptic": lambda: COCO_STUFF, "cityscapes_panoptic": lambda: CITYSCAPES_STUFF},
}


def fallback_meta(section: Mapping[str, Any] | None) -> DatasetMeta | None:
    """The metadata that a config's `fallback_meta` describes; None if that section is empty.

    The keys of the section are the fields of DatasetMeta. `classes` may also be a name in `NAMED`, or a number of
    unnamed classes; `stuff` may also be a name in `NAMED`; `skeleton` is "coco" (a person's 17 keypoints), a list of
    keypoint names, or a dict with `names` and `bones`.

    Raises:
        ConfigError: a name or setting is unknown, or a value is invalid for DatasetMeta.
    """
    settings = as_section(section, "fallback_meta")
    try:
        for key, value in [*settings.items()]:
            if value is None:
                del settings[key]
            else:
                settings[key] = _value(settings, key)
        meta = validate_settings(DatasetMeta, settings, "fallback_meta")
    except ConfigError as error:
        raise located(error, settings) from error
    except DataError as error:
        raise located(ConfigError(str(error)), settings) from error
    return None if meta == DatasetMeta() else meta


def _value(section: Section, key: str) -> Any:
    """Convert a value of the section (a name, a number or a list) to the value of the DatasetMeta field."""
    value = section[key]
    if isinstance(value, str) and key in NAMED:
        if value not in NAMED[key]:
            raise located(ConfigError(unknown(key, value, NAMED[key])), section, [key])
        return NAMED[key][value]()
    if key == "classes" and isinstance(value, int):
        return numbered_names(validate_value(PositiveInt, value, "fallback_meta.classes"))
    if key == "classes":
        return validate_value(Names, value, "fallback_meta.classes")
    if key == "skeleton":
        named = value if isinstance(value, Mapping) else {"names": value}
        return validate_settings(Skeleton, named, "fallback_meta.skeleton")
    return value
