"""Default arguments of the components in a config: configs that differ only in explicit defaults compare as equal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from chordate.heads.box import BoxHead
from chordate.models.panoptic_merger import MergeSettings
from chordate.models.preprocess import Normalize
from chordate.ops.anchors import AnchorGenerator
from chordate.registry import BACKBONES, DATASETS, HEADS, LOSSES, METRICS, MODELS, NECKS, SCHEDULES, TRANSFORMS
from chordate.signatures import parameters_of
from chordate.training.settings import TrainSettings

REGISTRIES = (MODELS, BACKBONES, NECKS, HEADS, LOSSES, TRANSFORMS, DATASETS, METRICS, SCHEDULES)
# For each section or argument without `type`: the class whose arguments it contains.
UNTYPED: Mapping[str, Any] = {
    "preprocess": Normalize,
    "anchors": AnchorGenerator,
    "stage": BoxHead,
    "merge": MergeSettings,
    "train": TrainSettings,
}
PARTS = ("backbone", "neck", "head", "rpn", "box", "mask", "keypoint", "semantic", "auxiliary", "metric", "norm")
DATA: Mapping[str, Any] = {
    "batch_size": 1,
    "workers": 2,
    "group_by_aspect": True,
    "class_balanced": None,
    "pipeline": [],
}
OPTIMIZER: Mapping[str, Any] = {
    "momentum": 0,
    "nesterov": False,
    "weight_decay": 0.0,
    **dict.fromkeys(("base_batch_size", "no_decay", "parts", "layer_decay")),
    "layer_blocks": 1,
}
EXTRA = {"pretrained": None}  # settings that every backbone has besides its own arguments


@cache
def defaults_of(plug: str) -> Mapping[str, Any]:
    """The default arguments of a registered type or variant."""
    for registry in REGISTRIES:
        if plug in registry.names():
            variant = registry.expand(plug)
            own = {key: value for key, value in variant.items() if key != "type"}
            defaults = parameters_of(registry.get(variant["type"])).defaults
            return {**defaults, **own, **(EXTRA if registry is BACKBONES else {})}
    return {}


def section_defaults(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Default values of the settings in `values`, a dict named `key` in a config."""
    if key in ("train_data", "val_data"):
        return DATA
    if key == "optimizer":
        return OPTIMIZER
    kind = values.get("type")
    if isinstance(kind, str):
        return defaults_of(kind)
    return parameters_of(UNTYPED[key]).defaults if key in UNTYPED else {}


def without_defaults(value: Any, key: str = "") -> Any:
    """Copy a config without settings that equal their defaults; tuples become lists, and type names become dicts."""
    if isinstance(value, str) and key in PARTS:
        value = {"type": value}
    if isinstance(value, Mapping):
        defaults = {name: item for name, item in section_defaults(value, key).items() if name != "type"}
        items = {name: without_defaults(item, name) for name, item in value.items()}
        if items.get("losses") == [{"type": "CrossEntropy"}]:  # equal to the default, None
            del items["losses"]
        return {
            name: item
            for name, item in items.items()
            if item != {} and (name not in defaults or not equal(item, without_defaults(defaults[name], name)))
        }
    if isinstance(value, list | tuple):
        return [without_defaults(item) for item in value]
    return value


def equal(one: Any, other: Any) -> bool:
    """Whether two settings are equal, up to the rounding of numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=1e-9)
    return one == other
