"""Metadata for models that are built without data: what a config's `fallback_meta` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chordate.arguments import PositiveInt, validate_settings
from chordate.composition import as_section, located
from chordate.data.coco_classes import COCO_CLASSES, COCO_SKELETON
from chordate.data.image_folder import imagenet_classes
from chordate.errors import ConfigError, unknown
from chordate.structures import DatasetMeta, Skeleton
from chordate.structures.metadata import nameless

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES: dict[str, Callable[[], tuple[str, ...]]] = {
    "coco": lambda: COCO_CLASSES,
    "imagenet": imagenet_classes,
    "cifar10": lambda: CIFAR10_CLASSES,
}
KEYPOINTS = {"coco": COCO_SKELETON}


@dataclass(frozen=True)
class FallbackMeta:
    """The section `fallback_meta` of a config.

    Attributes:
        classes: "coco", "imagenet", "cifar10", a list of names, or a number of nameless classes.
        keypoints: "coco" (a person's 17), or a list of names; None for none.
        extra: further facts by name, see `DatasetMeta`.
    """

    classes: str | list[str] | PositiveInt | None = None
    keypoints: str | list[str] | None = None
    extra: Mapping[str, Any] | None = None


def named_meta(section: Mapping[str, Any]) -> DatasetMeta | None:
    """The metadata that a config's `fallback_meta` describes; None where it says nothing.

    Raises:
        ConfigError: an unknown name or setting.
    """
    section = as_section(section, "fallback_meta")
    settings = validate_settings(FallbackMeta, section, "fallback_meta")
    if not (settings.classes or settings.keypoints or settings.extra):
        return None
    classes, keypoints = settings.classes, settings.keypoints
    if isinstance(classes, str):
        if classes not in CLASSES:
            raise located(ConfigError(unknown("classes", classes, CLASSES)), section, ["classes"])
        names = CLASSES[classes]()
    else:
        names = nameless(classes) if isinstance(classes, int) else tuple(classes or ())
    if isinstance(keypoints, str):
        if keypoints not in KEYPOINTS:
            raise located(ConfigError(unknown("keypoints", keypoints, KEYPOINTS)), section, ["keypoints"])
        skeleton: Skeleton | None = KEYPOINTS[keypoints]
    else:
        skeleton = Skeleton(tuple(keypoints)) if keypoints else None
    return DatasetMeta(names, skeleton, extra=settings.extra or {})
