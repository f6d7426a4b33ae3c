"""Default arguments of the components in a config: configs that differ only in explicit defaults compare as equal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from chordate.arguments import validate_arguments
from chordate.composition import as_section
from chordate.errors import ConfigError
from chordate.heads.box import BoxHead
from chordate.models.panoptic_merger import MergeSettings
from chordate.models.preprocess import Normalize
from chordate.ops.anchors import AnchorGenerator
from chordate.registry import (
    BACKBONES,
    DATASETS,
    HEADS,
    LOSSES,
    METRICS,
    MODELS,
    NECKS,
    SCHEDULES,
    TRANSFORMS,
    PlugRegistry,
)
from chordate.signatures import is_third_party, parameters_of
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


def check_arguments(value: Any, path: str = "") -> None:
    """Check the arguments of the components in a config against their annotations.

    Args:
        value: a config, or the value of a setting.
        path: dotted name of the value; "" for a config.

    Raises:
        ConfigError: a component has no such argument, or an argument's value does not fit its annotation.
    """
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            check_arguments(item, f"{path}.{number}")
    if not isinstance(value, Mapping):
        return
    kind = value.get("type")
    for registry in _registries_of(kind) if isinstance(kind, str) else ():
        arguments = registry.expand(dict(value))
        target = registry.get(arguments.pop("type"))
        known: dict[str, Any] = {"extra_settings": registry.extra_settings, "values": not is_third_party(target)}
        validate_arguments(target, as_section(arguments, path), path, **known)
    for key, item in value.items():
        check_arguments(item, f"{path}.{key}" if path else key)


@cache
def _registries_of(kind: str) -> tuple[PlugRegistry, ...]:
    return tuple(registry for registry in REGISTRIES if kind in registry.names())


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


def fill_numbers(target: Mapping[str, Any], base: Mapping[str, Any], key: str = "model") -> dict[str, Any]:
    """Copy settings; numbers that are None, also in lists, are those of `base`, or else the defaults.

    Args:
        target: settings of the section or argument `key`, and the settings in it.
        base: the same settings of another config; may be empty.
        key: see `target`.

    Raises:
        ConfigError: a number in a list is None, and neither `base` nor the defaults have it.
    """
    defaults = section_defaults(target, key)
    filled: dict[str, Any] = {}
    for name, value in target.items():
        reference = base.get(name, defaults.get(name))
        if isinstance(value, Mapping):
            filled[name] = fill_numbers(value, reference if isinstance(reference, Mapping) else {}, name)
        elif isinstance(value, list) and None in value:
            if not isinstance(reference, list | tuple) or len(reference) != len(value):
                raise ConfigError(f"{name} of {target.get('type', key)} is missing, and Chordate has no default")
            filled[name] = [other if item is None else item for item, other in zip(value, reference)]
        else:
            filled[name] = reference if value is None and isinstance(reference, int | float | list | tuple) else value
    return filled
