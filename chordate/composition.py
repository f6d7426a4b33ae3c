"""Merges config layers (the settings of each file, then the options), and records which layer set each setting."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from chordate.allowed_values import format_value
from chordate.errors import ChordateError, ConfigError, repr_name
from chordate.text import one_line

DELETE = "_delete_"
KeyPath = tuple[str, ...]  # keys and list indices from the top of the config


class Origin(NamedTuple):
    """The config layer (a file, a dict or the options) that set a setting.

    Attributes:
        rank: position among the layers; later layers override earlier ones.
        source: name of the layer in messages, such as the file's path, `config` (a dict) or `--cfg-options`.
        is_packaged: whether the layer is a config file of the package.
    """

    rank: int
    source: str
    is_packaged: bool = False


Origins = dict[KeyPath, Origin]


def origin_of(origins: Mapping[KeyPath, Origin], path: KeyPath) -> Origin | None:
    """The origin of a setting, or of the nearest enclosing dict or list that has an origin."""
    for end in range(len(path), 0, -1):
        if path[:end] in origins:
            return origins[path[:end]]
    return None


class Section(dict[str, Any]):
    """A dict of settings that stores its key path in the config; dicts nested in it are Sections as well.

    `copy()` and `|` keep the path. `dict(section)` and `{**section}` return plain dicts without it, so errors about
    their settings do not name the file.

    Args:
        values: the settings.
        path: keys from the top of the config to this dict.
        origins: mapping from key path to Origin, for all settings of the config.
    """

    def __init__(self, values: Mapping[str, Any], path: KeyPath = (), origins: Mapping[KeyPath, Origin] | None = None):
        self.path, self.origins = path, origins or {}
        super().__init__({key: _placed(value, (*path, str(key)), self.origins) for key, value in values.items()})

    def name(self, key: str | None = None) -> str:
        """The dotted key path of a setting (`model.rpn.nms_threshold`); of the section itself if `key` is None."""
        return ".".join(self.path if key is None else (*self.path, key))

    def source(self, keys: Iterable[str]) -> str:
        """The prefix `<file>: ` of error messages about `keys` (dotted keys are allowed); empty if no file is known.

        The file is the last one that set one of the keys.
        """
        written = []
        for key in keys:
            here = (*self.path, *str(key).split("."))
            inner = [origin for path, origin in self.origins.items() if path[: len(here)] == here]
            written += inner or [origin for origin in [origin_of(self.origins, here)] if origin]
        return f"{max(written).source}: " if written else ""

    def copy(self) -> Section:
        return self | {}

    def __ror__(self, other: Mapping[str, Any]) -> Section:  # type: ignore[override]
        return self | other | self

    def __or__(self, other: Mapping[str, Any]) -> Section:  # type: ignore[override]
        copied = Section({}, self.path, self.origins)
        copied.update(self)
        copied.update(other)
        return copied


def as_section(values: Mapping[str, Any] | None, where: str) -> Section:
    """Copy a section, or convert a dict to a section at the path `where`; None becomes an empty section.

    Raises:
        ConfigError: `values` is not a dict with string keys.
    """
    if isinstance(values, Section):
        return values.copy()
    if values is not None and not (isinstance(values, Mapping) and all(isinstance(key, str) for key in values)):
        raise ConfigError(f"{where} must be a dict of settings, got {format_value(values)}")
    return Section(values or {}, (where,))


def placed_parts(section: Mapping[str, Any], key: str) -> list[Any]:
    """The components in the list `section[key]`, such as a `pipeline`; components given by name become Sections."""
    parts = section.get(key) or ()
    return [placed_part(section, part, key, str(index)) for index, part in enumerate(parts)]


def placed_part(section: Mapping[str, Any], part: Any, *keys: str) -> Any:
    """Return `part`, the value at `keys` in a section; a name, number or None becomes a Section with `type=part`."""
    if isinstance(section, Section) and (part is None or isinstance(part, str | int | float)):
        return Section({"type": part}, (*section.path, *keys), section.origins)
    return part


def _placed(value: Any, path: KeyPath, origins: Mapping[KeyPath, Origin]) -> Any:
    if isinstance(value, dict):
        return Section(value, path, origins)
    if type(value) in (list, tuple):
        return type(value)(_placed(item, (*path, str(index)), origins) for index, item in enumerate(value))
    return value


def located(error: Exception, config: Any, keys: Iterable[str] = (), *, setting: str | None = None) -> ChordateError:
    """Prefix an error's message with the config file and the key path (`model.backbone.depth`) that caused it.

    If neither `setting` nor `keys` is given, `setting` is the only key whose value the message quotes, unless that is
    `type`. The key path is the path of the section `config`, followed by `setting` if there is one. The file is the
    last file that set `setting`, or else one of `keys`, or else a key mentioned in the message, or else any key of
    `config`.

    Returns:
        An error of the original type if the type is a ChordateError, else a ConfigError. There is no prefix if the
        error has one already (`error.located`) or `config` is not a Section.
    """
    message = one_line(error)
    if (isinstance(error, ChordateError) and error.located) or not isinstance(config, Section):
        return error if isinstance(error, ChordateError) else ConfigError(message)
    if setting is None and not keys:
        quoted = [key for key, value in config.items() if isinstance(value, str) and repr_name(value) in message]
        setting = quoted[0] if len(quoted) == 1 and quoted != ["type"] else None
    name, mentioned = config.name(setting), list(keys) if setting is None else [setting]
    mentioned = mentioned or [key for key in config if re.search(rf"\b{re.escape(str(key))}\b", message)]
    path = "" if re.match(rf"{re.escape(name)}[.:]", message) else f"{name}: "
    kind = type(error) if isinstance(error, ChordateError) else ConfigError
    return kind(f"{config.source(mentioned or config)}{path}{message}", located=True)


def merge(
    tree: dict[Any, Any],
    layer: Mapping[Any, Any],
    origin: Origin,
    origins: Origins,
    *,
    path: KeyPath = (),
    into_lists: bool = False,
) -> None:
    """Merge a layer into the settings of the earlier layers, in place.

    Dicts are merged. Other values, and dicts with `_delete_=True`, replace the earlier ones. If a dict is
    merged into a string, the string is a type name: it is treated as `dict(type=name)`.

    Args:
        tree: the merged settings of the earlier layers; modified in place.
        layer: settings that override those in `tree`.
        origin: the Origin recorded for the settings of `layer`.
        origins: mapping from key path to Origin, for the settings in `tree`; updated in place.
        path: key path of `tree` in the config.
        into_lists: whether a dict whose keys are indices changes items of a list, as in the option
            `pipeline.0.size=640`.

    Raises:
        ConfigError: an index is past the end of a list, or `_delete_` is not a bool.
    """
    for key, value in layer.items():
        here, old = (*path, str(key)), tree.get(key)
        if key == "type" and key in tree and _equal(old, value):
            continue  # repeating the inherited type does not change its origin
        if not isinstance(value, Mapping):
            _set(tree, key, plain(value), origin, origins, here)
            continue
        if not isinstance(value.get(DELETE, False), bool):
            name = ".".join((*here, DELETE))
            raise ConfigError(f"{origin.source}: {name} must be True or False, got {format_value(value[DELETE])}")
        if isinstance(old, list | tuple) and into_lists and value and all(str(index).isdigit() for index in value):
            items = {str(index): item for index, item in enumerate(old)}
            merge(items, value, origin, origins, path=here, into_lists=True)
            if len(items) > len(old):
                name, index = ".".join(here), max(value, key=int)
                raise ConfigError(
                    f"{origin.source}: {name} has {len(old)} items, counted from 0; there is no item {index}"
                )
            tree[key] = list(items.values())
            continue
        if isinstance(old, str):
            tree[key] = old = {"type": old}
            origins[(*here, "type")] = origin_of(origins, here) or origin
        if value.get(DELETE) or not isinstance(old, dict):
            _set(tree, key, {}, origin, origins, here)
        rest = {name: item for name, item in value.items() if name != DELETE}
        merge(tree[key], rest, origin, origins, path=here, into_lists=into_lists)


def _set(tree: dict[Any, Any], key: Any, value: Any, origin: Origin, origins: Origins, here: KeyPath) -> None:
    for path in [path for path in origins if path[: len(here)] == here]:
        del origins[path]
    tree[key], origins[here] = value, origin


def plain(value: Any) -> Any:
    """Copy a setting, so that layers share no objects.

    Numbers and arrays of numpy and torch become Python numbers and lists, and paths become strings; other objects are
    returned as they are.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value


def objects(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the key path and value of each setting that a config file cannot represent, such as a function."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from objects(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from objects(item, (*path, str(index)))
    elif value is not None and not isinstance(value, str | int | float):
        yield path, value


def unchanged(origins: Mapping[KeyPath, Origin], then: Any, now: Any) -> Origins:
    """The origins of the settings whose values in `now` are the same as in `then`, the config as it was composed."""
    return {path: origin for path, origin in origins.items() if _equal(_at(then, path), _at(now, path))}


def _at(tree: Any, path: KeyPath) -> Any:
    for key in path:
        try:
            tree = tree[int(key)] if isinstance(tree, list | tuple) else tree[key]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return tree


def _equal(one: Any, other: Any) -> bool:
    """Whether two settings are equal; tensors and other objects are compared by identity."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return one is other or (type(one) is type(other) and isinstance(one, str | int | float) and one == other)


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert `{"optimizer.lr": 0.01}` to `{"optimizer": {"lr": 0.01}}`.

    Options may set a component by name, and then its settings: `{"neck": "FPN", "neck.channels": 128}`.
    """
    tree: dict[str, Any] = {}
    for dotted, value in options.items():
        *parents, last = dotted.split(".")
        inner = tree
        for key in parents:
            if not isinstance(inner.get(key), dict):
                inner[key] = {DELETE: True, "type": inner[key]} if isinstance(inner.get(key), str) else {}
            inner = inner[key]
        inner[last] = plain(value)
    return tree
