"""Composes configs (mmengine's Config) from files, dicts and options, and returns their sections."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

from chordate.allowed_values import format_value
from chordate.arguments import checked_call
from chordate.composition import (
    KeyPath,
    Origin,
    Origins,
    Section,
    merge,
    nested,
    objects,
    origin_of,
    placed_parts,
    unchanged,
)
from chordate.config_files import config_layers, dict_layers, read_text
from chordate.config_names import find_config, list_configs, packaged_configs
from chordate.custom_imports import import_custom_modules
from chordate.errors import ChordateError, ConfigError
from chordate.registry import not_inherited, settings_of
from chordate.section_names import SECTIONS, is_openmmlab, no_section

__all__ = ["find_config", "list_configs", "list_section", "load_config", "packaged_configs", "part_section", "section"]

log = logging.getLogger("chordate")


@checked_call()
def load_config(
    config: str | Path | Mapping[str, Any] | Config,
    options: Mapping[str, Any] | None = None,
    *,
    source: str = "--cfg-options",
) -> Config:
    """Read a config and the configs that it inherits from, and apply overrides.

    Files are merged in the order of inheritance, base files first, then options: dicts are merged; other values, and
    dicts with `_delete_=True`, replace the inherited ones. If a file or an option overrides the `type` of a component,
    inherited settings that the new type does not accept are dropped and logged. The modules listed in `custom_imports`
    are imported; they may be in the config's folder or in the current folder.

    Args:
        config: the name of a packaged config (optionally with another backbone in the name), the path of a config file,
            a dict, or a Config. It may inherit from files (`_base_ = ["../x.py"]`; later files override earlier ones),
            and from a packaged config (`base = "faster-rcnn_r50_fpn_1x_coco"`), which the files of `_base_` override.
        options: overrides with dotted keys, such as `{"optimizer.lr": 0.01}`.
        source: origin of the options for error messages.

    Returns:
        An mmengine Config that records which file set each setting, for errors about settings read by `section`.

    Raises:
        ConfigError: the config does not exist, raises an error, or has an unknown section (names that start with an
            underscore are the config's own variables).
    """
    filename, text, tree, origins, layers = None, None, {}, Origins(), []
    overrides = nested(options or {})
    if isinstance(config, Config):
        filename, text, origins = config.filename, config.text, _origins(config)
        if origins:
            tree = config.to_dict()
        else:
            layers = dict_layers(config.to_dict(), filename or "config")
    elif isinstance(config, Mapping):
        layers = dict_layers(config)
    else:
        # The modules may register the backbone that is part of the config's name.
        import_custom_modules(overrides.get("custom_imports"), source)
        file_or_composition = find_config(config)
        layers = config_layers(file_or_composition)
        if isinstance(file_or_composition, Path):
            filename, text = str(file_or_composition), read_text(file_or_composition)
        else:
            filename, text = f"{file_or_composition.name}.py", f'base = "{file_or_composition.name}"\n'
    rank = max((origin.rank for origin in origins.values()), default=-1) + 1
    for layer in layers:
        merge(tree, layer.values, layer.origin(rank), origins)
        rank += 1
    if layers and is_openmmlab(tree):
        raise ConfigError(
            f"{layers[-1].source}: a config of MMDetection or MMSegmentation; chordate convert-config converts it"
        )
    merge(tree, overrides, Origin(rank, source), origins, into_lists=True)
    _replace_length(tree, origins)
    tree = {key: value for key, value in tree.items() if not (_is_own(key) and any(objects(value)))}
    if not isinstance(config, Mapping | Config):
        _check_plain(tree, origins)
    import_custom_modules(tree.get("custom_imports"), _written_in("custom_imports", origins))
    for key in tree:
        # The `_base_` of each file is resolved by now; one that is left is from an option, which cannot set it.
        if key not in SECTIONS and (not _is_own(key) or key == "_base_"):
            raise ConfigError(f"{_written_in(key, origins)}: {no_section(str(key), tree)}")
    for line in _drop_replaced(tree, origins, ()):
        log.warning("%s", line)
    loaded = Config(tree, cfg_text=text, filename=filename)
    # Direct assignment would add settings to the Config. Config.copy() keeps these two attributes.
    object.__setattr__(loaded, "_origins", origins)
    object.__setattr__(loaded, "_composed", loaded.to_dict())
    return loaded


def check_plain(config: Config) -> None:
    """Check that a config can be written to a file.

    Raises:
        ConfigError: the config contains a class, a function or another object; the message names the setting.
    """
    _check_plain(config.to_dict(), _origins(config))


def check_save_best(config: Config) -> None:
    """Check that a config with `train.save_best` has `val_data`.

    `val_data=None` is accepted if it was set after `save_best`, for example by an option that turns evaluation off.

    Raises:
        ConfigError: `val_data` is missing, or is None but was not set after `save_best`.
    """
    best, data = (origin_of(_origins(config), path) for path in (("train", "save_best"), ("val_data",)))
    is_off = best is not None and data is not None and data.rank > best.rank
    if config.train.get("save_best") and not config.get("val_data") and not is_off:
        raise ConfigError("train.save_best needs val_data to evaluate on; add it, or set train.save_best=None")


@contextmanager
def naming_files(config: Config) -> Iterator[None]:
    """Context manager that prefixes errors about a setting (`train.save_best: …`) with the file that set it."""
    try:
        yield
    except ChordateError as error:
        setting = re.match(r"(\w+)((?:\.\w+)+|(?=:))", str(error))
        path = tuple(setting[0].split(".")) if setting and setting[1] in SECTIONS else ()
        origin = None if error.located else origin_of(_origins(config), path)
        if origin is None:
            raise
        raise type(error)(f"{origin.source}: {error}", located=True) from error


def section(config: Config, name: str, *, optional: bool = False) -> Section:
    """Return one section of a config, as a Section: errors about its settings name the file that set them.

    Args:
        config: from `load_config`.
        name: name of the section.
        optional: whether to return an empty section if the config does not have it.

    Raises:
        ConfigError: the section is missing or is not a dict.
    """
    values, origins = config.get(name), _origins(config)
    if optional and values is None:
        return Section({}, (name,), origins)
    if not isinstance(values, Mapping):
        where = _written_in(name, origins, config.filename or "the config")
        raise ConfigError(f"{where}: section `{name}` is {values!r}; write {name} = dict(…)")
    return Section(config.to_dict()[name], (name,), origins)


def part_section(config: Config, name: str) -> Section | None:
    """Return a section that is a component, such as `metric`, given as a dict or a name; None if it is missing.

    Raises:
        ConfigError: the section is neither a dict nor a name.
    """
    values = config.get(name)
    if isinstance(values, str):
        return Section({"type": values}, (name,), _origins(config))
    return None if values is None else section(config, name)


def list_section(config: Config, name: str) -> list[Any]:
    """Return a section that is a list, such as `callbacks`, with dicts and names as Sections; empty if it is missing.

    Raises:
        ConfigError: the section is not a list.
    """
    values, origins = config.to_dict().get(name) or [], _origins(config)
    if not isinstance(values, list | tuple):
        where = _written_in(name, origins, config.filename or "the config")
        raise ConfigError(f"{where}: section `{name}` is {values!r}; write {name} = [dict(type=…)]")
    return placed_parts(Section({name: values}, (), origins), name)


def _is_own(key: str) -> bool:
    """Whether a name is a config's own variable, not a section."""
    return str(key).startswith("_")


def _check_plain(tree: Mapping[str, Any], origins: Origins) -> None:
    for path, value in objects(tree):
        origin, setting = origin_of(origins, path), ".".join(path)
        remedy = "a config may contain only numbers, strings, True, False, None, lists and dicts"
        if isinstance(value, type):
            remedy = f'register the class and write its name, {setting}="{value.__name__}"'
        raise ConfigError(f"{origin.source if origin else 'config'}: {setting} is {format_value(value)}; {remedy}")


def _origins(config: Config) -> Origins:
    """The origins of a config's settings, except settings that were changed after loading."""
    attributes = vars(config)
    return unchanged(attributes.get("_origins", {}), attributes.get("_composed", {}), config.to_dict())


def _written_in(key: str, origins: Origins, otherwise: str = "config") -> str:
    origin = origin_of(origins, (key,))
    return origin.source if origin else otherwise


def _replace_length(tree: Mapping[str, Any], origins: Origins) -> None:
    """Set the inherited one of `train.epochs` and `train.iterations` to None if a later layer sets the other."""
    train = tree.get("train")
    units = ("epochs", "iterations")
    if not isinstance(train, dict) or any(train.get(unit) is None for unit in units):
        return
    written = [origin_of(origins, ("train", unit)) for unit in units]
    if None in written or written[0].rank == written[1].rank:  # type: ignore[union-attr]
        return  # ambiguous; TrainSettings raises an error
    old, new = units if written[0].rank < written[1].rank else units[::-1]  # type: ignore[union-attr]
    log.warning(
        f"train.{new}={train[new]} replaces train.{old}={train[old]}; eval_every, save_every and the milestones of "
        f"the schedule are now in {new}"
    )
    train[old] = None


def _drop_replaced(node: Any, origins: Origins, path: KeyPath) -> list[str]:
    """Remove, in place, inherited settings that a component's new `type` does not accept.

    Returns:
        A log line for each component that lost settings. The line leaves out the packaged configs' settings that the
        new type never inherits, such as the paths of COCO's files: they describe data that the user does not have.
    """
    lines: list[str] = []
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            lines += _drop_replaced(item, origins, (*path, str(index)))
    if not isinstance(node, dict):
        return lines
    inherited = _older_than_type(node, origins, path)
    accepted = settings_of(node["type"]) if inherited else None
    dropped = [key for key in inherited if accepted is not None and key not in accepted]
    for key in dropped:
        del node[key]
    from_layers = {key: origin_of(origins, (*path, key)) for key in dropped}
    reported = {
        key: origin.source
        for key, origin in from_layers.items()
        if origin and not (origin.is_packaged and key in not_inherited(node["type"]))
    }
    if reported:
        by, sources = origin_of(origins, (*path, "type")), " and ".join(dict.fromkeys(reported.values()))
        lines.append(
            f"{by.source if by else 'config'}: {'.'.join(path)}.type={node['type']} does not accept "
            f"{', '.join(reported)}; dropped the settings inherited from {sources}"
        )
    for key, item in node.items():
        lines += _drop_replaced(item, origins, (*path, str(key)))
    return lines


def _older_than_type(node: Mapping[str, Any], origins: Origins, path: KeyPath) -> list[str]:
    """The settings of a component that were set in earlier layers than its `type`."""
    chosen = origin_of(origins, (*path, "type")) if "type" in node else None
    if chosen is None:
        return []
    older = []
    for key in node:
        here = (*path, str(key))
        ranks = [origin.rank for written, origin in origins.items() if written[: len(here)] == here]
        if max(ranks, default=chosen.rank) < chosen.rank:
            older.append(key)
    return older
