"""Finds the packaged config that is nearest to a complete config, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from chordate.composition import DELETE
from chordate.config import load_config
from chordate.config_names import VARIATIONS, package_root, packaged_configs
from chordate.config_templates import ALIASES, read_templates
from chordate.errors import ConfigError
from chordate.log_once import no_warnings
from chordate.migration.config_defaults import equal, section_defaults, without_defaults

# Settings that affect neither predictions nor training; the packaged config's values are kept.
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
    """Find the packaged config, with its own or another backbone, that needs the fewest overrides to equal `config`.

    Variations (see `variations`) are tried only for the three nearest config files, since loading a config takes time.

    Raises:
        ConfigError: no packaged config has `config`'s type of model.
    """
    target = without_defaults(config)
    files = _ranked([name for name in packaged_configs() if name.startswith(FAMILIES)], target)
    if not files:
        raise ConfigError(f"no packaged config has a model of type {target['model']['type']}")
    backbone = target["model"]["backbone"]["type"]
    names = [name for nearest in files[:3] for name in variations(nearest.base, backbone)]
    return _ranked(names, target)[0]


def variations(name: str, backbone: str) -> Iterator[str]:
    """Yield a packaged config's name, then this name with its backbone replaced by `backbone` (or a shorter alias),
    then the new name with each replacement of VARIATIONS that applies. Yields only `name` if it has no backbone."""
    yield name
    parts = read_templates(package_root()).parts.get(name)
    if parts is None:
        return
    spellings = [alias for alias, other in ALIASES.items() if other == backbone]
    composed = f"{parts.head}{min([*spellings, backbone], key=len)}{parts.tail}"
    yield composed
    for new, (old, _) in VARIATIONS.items():
        if f"_{old}" in parts.tail:
            yield composed.replace(f"_{old}", f"_{new}")


def _ranked(names: Iterable[str], target: Mapping[str, Any]) -> list[Nearest]:
    """The existing configs with `target`'s type of model, sorted by number of differences, then by length of name."""
    found = []
    for name in dict.fromkeys(names):
        base = _load(name)
        if base is not None and base["model"]["type"] == target["model"]["type"]:
            difference = differences(target, base)
            found.append((_count(difference), len(name), Nearest(name, _short_norms(difference))))
    return [nearest for _, _, nearest in sorted(found, key=lambda row: row[:2])]


def differences(target: Mapping[str, Any], base: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that must override `base` to make it equal to `target`; both are results of `without_defaults`."""
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
    """Copy settings, with each norm that is a dict with only a `type` replaced by its name."""
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
    """A packaged config without defaults; None if there is no config of this name."""
    try:
        with no_warnings():  # about settings of the packaged config that another backbone does not have
            return without_defaults(load_config(name).to_dict())
    except ConfigError:
        return None
