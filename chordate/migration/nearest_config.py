"""Finds the packaged config that is nearest to a complete config, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from chordate.composition import DELETE
from chordate.config import load_config
from chordate.config_names import VARIATIONS, list_configs, package_root
from chordate.config_templates import ALIASES, read_templates
from chordate.errors import ConfigError
from chordate.migration.config_defaults import equal, section_defaults, without_defaults

# Settings that change no numbers; the packaged config's are kept.
KEPT = (
    ("train", "channels_last"),
    ("train", "save_best"),
    ("train", "keep"),
    ("train", "log_every"),
    ("train", "compile"),
    ("train_data", "workers"),
    ("val_data", "workers"),
)
FAMILIES = (
    "faster",
    "mask",
    "cascade",
    "keypoint",
    "retinanet",
    "panoptic-fpn",
    "semantic",
    "deeplab",
    "fcn",
    "pspnet",
)


class Nearest(NamedTuple):
    """A packaged config, and the settings that make it equal to another config.

    Attributes:
        base: name of the packaged config.
        difference: the settings that override the packaged config's.
    """

    base: str
    difference: dict[str, Any]


def find_nearest(config: Mapping[str, Any]) -> Nearest:
    """Find the packaged config, with any backbone, that needs the fewest settings to become `config`."""
    target = without_defaults(config)
    backbone = target["model"]["backbone"]["type"]
    found = []
    for name in candidates(backbone):
        base = _load(name)
        if base is not None and base["model"]["type"] == target["model"]["type"]:
            difference = differences(target, base)
            found.append((_count(difference), len(name), Nearest(name, _short_norms(difference))))
    if not found:
        raise ConfigError(f"no packaged config has a {target['model']['type']}")
    return min(found, key=lambda row: row[:2])[2]


def candidates(backbone: str) -> Iterator[str]:
    """Names of packaged configs with this backbone, in the shortest spelling, with all variations of each name."""
    aliases = [alias for alias, name in ALIASES.items() if name == backbone]
    spelling = min([*aliases, backbone], key=len)
    templates = read_templates(package_root())
    seen = set()
    for name in list_configs():
        parts = templates.parts.get(name)
        if parts is None or not name.startswith(FAMILIES):
            continue
        composed = f"{parts.head}{spelling}{parts.tail}"
        words = [new for new, (old, _) in VARIATIONS.items() if f"_{old}" in parts.tail]
        varied = (composed.replace(f"_{VARIATIONS[new][0]}", f"_{new}") for new in words)
        for candidate in (name, composed, *varied):
            if candidate not in seen:
                seen.add(candidate)
                yield candidate


def differences(target: Mapping[str, Any], base: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that override `base` so that it means the same as `target`; both are without defaults."""
    result: dict[str, Any] = {}
    for key in (*target, *(key for key in base if key not in target)):
        here = (*path, key)
        if key not in target:
            if here not in KEPT:
                result[key] = section_defaults(target, path[-1] if path else "").get(key)
        elif key not in base:
            result[key] = target[key]
        elif isinstance(target[key], Mapping) and isinstance(base[key], Mapping):
            result |= _nested(key, target[key], base[key], here)
        elif not equal(target[key], base[key]):
            result[key] = target[key]
    return result


def _nested(key: str, target: Mapping[str, Any], base: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    inner = differences(target, base, path)
    replaced = {DELETE: True, **target}
    if "type" in inner and key != "backbone" and _count(replaced) <= _count(inner) + 1:
        return {key: replaced}
    return {key: inner} if inner else {}


def _short_norms(value: Any) -> Any:
    """Copy settings with the names of norms in place of dicts that have only a `type`."""
    if not isinstance(value, Mapping):
        return value
    items = {key: _short_norms(item) for key, item in value.items()}
    norm = items.get("norm")
    return {**items, "norm": norm["type"]} if isinstance(norm, Mapping) and set(norm) == {"type"} else items


def _count(value: Any) -> int:
    """Number of settings in nested dicts."""
    return sum(map(_count, value.values())) if isinstance(value, Mapping) else 1


@cache
def _load(name: str) -> dict[str, Any] | None:
    """A packaged config without defaults; None if the name does not exist for this backbone."""
    try:
        return without_defaults(load_config(name).to_dict())
    except ConfigError:
        return None
