"""Composes configs from files, dicts and options (mmengine's Config), and gives out their sections."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config

from chordate.composition import KeyPath, Origin, Origins, Section, merge, nested, origin_of, unchanged
from chordate.config_files import dict_layers, file_layers, find_config, list_configs, one_line, packaged_configs
from chordate.errors import ChordateError, ConfigError, unknown
from chordate.registry import settings_of

__all__ = ["find_config", "list_configs", "list_section", "load_config", "packaged_configs", "part_section", "section"]

SECTIONS = (
    "model",
    "train_data",
    "val_data",
    "metric",
    "optimizer",
    "schedule",
    "train",
    "callbacks",
    "fallback_meta",
    "custom_imports",
)
# Names in MMDetection's configs, and earlier ones of ours; docs/configs.md has the whole table.
NAMES_HERE = {
    "train_cfg.max_epochs": "train.epochs",
    "train_cfg.max_iters": "train.iterations",
    "train_cfg.val_interval": "train.eval_every",
    "train_cfg": "train",
    "optim_wrapper.optimizer": "optimizer",
    "optim_wrapper.clip_grad": "train.clip_norm",
    "optim_wrapper.accumulative_counts": "train.accumulate",
    "optim_wrapper": "optimizer",
    "param_scheduler": "schedule",
    "train_dataloader.num_workers": "train_data.workers",
    "train_dataloader": "train_data",
    "val_dataloader.num_workers": "val_data.workers",
    "val_dataloader": "val_data",
    "test_dataloader": "val_data",
    "val_evaluator": "metric",
    "test_evaluator": "metric",
    "work_dir": "--work-dir",
    "load_from": "train.load_from",
    "resume": "--resume",
    "randomness": "train.seed",
    "default_hooks": "train",
    "custom_hooks": "callbacks",
    "fallback_classes": "fallback_meta.classes",
    "fallback_keypoints": "fallback_meta.skeleton",
    "fallback_meta.keypoints": "fallback_meta.skeleton",
}
log = logging.getLogger("chordate")


def load_config(
    config: str | Path | Mapping[str, Any] | Config,
    options: Mapping[str, Any] | None = None,
    *,
    source: str = "--cfg-options",
) -> Config:
    """Read a config with all that it inherits, and apply overrides to it.

    Layers merge from the base up: dicts merge, other values replace, and so does a dict with `_delete_=True`. Where a
    layer overrides the `type` of a part, inherited settings that the new type does not take are dropped, with a line
    in the log. Modules that `custom_imports` names are imported, from the config's folder and the current one too.

    Args:
        config: a packaged config's name, a file's path, a dict, or a Config. It may inherit from files
            (`_base_ = ["../x.py"]`; later ones override earlier ones) and, below these, from a packaged config
            (`base = "faster-rcnn_r50_fpn_1x_coco"`).
        options: overrides with dotted keys, `{"optimizer.lr": 0.01}`.
        source: of the options, for messages.

    Returns:
        mmengine's Config. Errors about settings in `section(config, name)` name the file that they come from.

    Raises:
        ConfigError: no such config, it does not run, or it has a section that does not exist (names that start
            with an underscore are a config's own).
    """
    filename, text, tree, origins, layers = None, None, {}, Origins(), []
    if isinstance(config, Config):
        filename, text, origins = config.filename, config.text, _origins(config)
        if origins:
            tree = config.to_dict()
        else:
            layers = dict_layers(config.to_dict(), filename or "config")
    elif isinstance(config, Mapping):
        layers = dict_layers(config)
    else:
        path = find_config(config)
        filename, text, layers = str(path), path.read_text(encoding="utf-8"), file_layers(path)
    rank = max((origin.rank for origin in origins.values()), default=-1) + 1
    for layer in layers:
        merge(tree, layer.values, Origin(rank, layer.source), origins)
        rank += 1
    merge(tree, nested(options or {}), Origin(rank, source), origins, into_lists=True)
    _import_modules(tree, origins)
    for key in tree:
        if key not in SECTIONS and not key.startswith("_"):
            raise ConfigError(f"{_written_in(key, origins)}: {_no_section(key, tree)}")
    _drop_replaced(tree, origins, ())
    loaded = Config(tree, cfg_text=text, filename=filename)
    # Config.copy() keeps these two.
    object.__setattr__(loaded, "_origins", origins)
    object.__setattr__(loaded, "_composed", loaded.to_dict())
    return loaded


def section(config: Config, name: str, *, optional: bool = False) -> Section:
    """One section of a config; errors about its settings name the file that they come from.

    Args:
        config: from `load_config`.
        name: of the section.
        optional: whether a missing section is an empty one.

    Raises:
        ConfigError: the config has no such section, or it is no dict.
    """
    values, origins = config.get(name), _origins(config)
    if optional and values is None:
        return Section({}, (name,), origins)
    if not isinstance(values, Mapping):
        where = _written_in(name, origins, config.filename or "the config")
        raise ConfigError(f"{where}: section `{name}` is {values!r}; write {name} = dict(…)")
    return Section(config.to_dict()[name], (name,), origins)


def part_section(config: Config, name: str) -> Section | None:
    """A section that describes one part, such as `metric`, by a dict or by its name; None if the config has none.

    Raises:
        ConfigError: it is neither.
    """
    values = config.get(name)
    if isinstance(values, str):
        return Section({"type": values}, (name,), _origins(config))
    return None if values is None else section(config, name)


def list_section(config: Config, name: str) -> list[Any]:
    """A section that is a list, such as `callbacks`; empty if the config has none. Dicts in it are Sections.

    Raises:
        ConfigError: it is no list.
    """
    values, origins = config.to_dict().get(name) or [], _origins(config)
    if not isinstance(values, list | tuple):
        where = _written_in(name, origins, config.filename or "the config")
        raise ConfigError(f"{where}: section `{name}` is {values!r}; write {name} = [dict(type=…)]")
    return list(Section({name: values}, (), origins)[name])


def _origins(config: Config) -> Origins:
    """The origins of a config's settings, without those of settings that were changed since."""
    attributes = vars(config)
    return unchanged(attributes.get("_origins", {}), attributes.get("_composed", {}), config.to_dict())


def _written_in(key: str, origins: Origins, otherwise: str = "config") -> str:
    origin = origin_of(origins, (key,))
    return origin.source if origin else otherwise


def _no_section(key: str, tree: Mapping[str, Any]) -> str:
    """What to write instead of a section that does not exist."""
    written = list(_dotted(key, tree[key]))
    for theirs, ours in NAMES_HERE.items():
        for path in written:
            if path == theirs or path.startswith(f"{theirs}."):
                path, rest = (path, path.removeprefix(theirs)) if "." in theirs else (theirs, "")
                return f"`{path}` is called `{ours}{rest}` here"
    holders = [name for name in SECTIONS if isinstance(tree.get(name), Mapping) and key in tree[name]]
    if holders:
        return f"`{key}` is no section but a setting of one: write {' or '.join(f'{name}.{key}' for name in holders)}"
    return unknown("section", key, SECTIONS)


def _dotted(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _dotted(f"{path}.{key}", item)
    else:
        yield path


def _import_modules(tree: Mapping[str, Any], origins: Origins) -> None:
    """Import what `custom_imports` names, so that it registers its parts."""
    wanted = tree.get("custom_imports")
    if wanted is None:
        return
    source = _written_in("custom_imports", origins)
    modules = wanted.get("imports") if isinstance(wanted, Mapping) else None
    if modules is None or not set(wanted) <= {"imports", "allow_failed_imports"}:
        raise ConfigError(f'{source}: write custom_imports = dict(imports=["my_module"])')
    for module in [modules] if isinstance(modules, str) else modules:
        try:
            import_module(module)
        except ChordateError:
            raise
        except Exception as error:  # whatever a user's module raises
            if not (wanted.get("allow_failed_imports") and isinstance(error, ImportError)):
                raise ConfigError(one_line(source, error)) from error
            log.warning("%s", one_line(source, error))


def _drop_replaced(node: Any, origins: Origins, path: KeyPath) -> None:
    """Drop inherited settings that the type which overrides their part's does not take, in place."""
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            _drop_replaced(item, origins, (*path, str(index)))
    if not isinstance(node, dict):
        return
    inherited = _older_than_type(node, origins, path)
    accepted = settings_of(node["type"]) if inherited else None
    dropped = [key for key in inherited if accepted is not None and key not in accepted]
    for key in dropped:
        del node[key]
    if dropped:
        by, *others = (origin_of(origins, (*path, key)) for key in ("type", *dropped))
        log.warning(
            "%s: %s.type=%s does not take %s; dropped, inherited from %s",
            by.source if by else "config", ".".join(path), node["type"], ", ".join(dropped),
            " and ".join(dict.fromkeys(origin.source for origin in others if origin)),
        )  # fmt: skip
    for key, item in node.items():
        _drop_replaced(item, origins, (*path, str(key)))


def _older_than_type(node: Mapping[str, Any], origins: Origins, path: KeyPath) -> list[str]:
    """The settings of a part that layers below the one that chose its `type` wrote."""
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
