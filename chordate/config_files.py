"""Reads a config and the files that it inherits from into config layers, one per file, base files first."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from mmengine.config import ConfigDict

from chordate.allowed_values import format_value
from chordate.composition import Origin, merge
from chordate.config_names import Composition, find_config, is_file_name, package_root
from chordate.custom_imports import import_custom_modules, import_error, look_for_modules_in
from chordate.errors import ChordateError, ConfigError
from chordate.foreign_configs import foreign_syntax
from chordate.literals import literal

MAX_CONFIG_DEPTH = 100  # levels of nested dicts and lists in a config
TEMPLATE = re.compile(r"\{\{\s*['\"]?\s*(\$\w|file\w|_base_)")  # mmengine's templates, such as {{ fileBasename }}


class Layer(NamedTuple):
    """A config layer: the settings written in one file (or dict), without inherited settings.

    Attributes:
        source: name of the layer in messages: the file's path, the name of a composed config, or `config` for a dict.
        path: path of the file; None if the layer is not a file.
        values: the settings.
    """

    source: str
    path: Path | None
    values: dict[str, Any]

    def origin(self, rank: int) -> Origin:
        """The Origin of the layer's settings; `rank` is its position among the layers."""
        is_packaged = self.path is not None and self.path.resolve().is_relative_to(package_root().resolve())
        return Origin(rank, self.source, is_packaged)


def config_layers(config: Path | Composition, inside: tuple[Path, ...] = ()) -> list[Layer]:
    """The config layers of a result of `find_config`, base files first. `inside` and errors are as in `file_layers`."""
    if isinstance(config, Path):
        return file_layers(config, inside)
    layers = [layer for path in config.files for layer in file_layers(path, inside)]
    own = {"model": {"backbone": config.backbone}} if config.backbone else {}
    return once([*layers, Layer(config.name, None, own)])


def file_layers(path: Path, inside: tuple[Path, ...] = ()) -> list[Layer]:
    """The config layers that a file inherits, then the layer of the file itself.

    Args:
        path: path of the file.
        inside: the files that inherit from this file, to detect cycles.

    Raises:
        ConfigError: a file does not exist, raises an error, or inherits from itself.
    """
    source = _source(path)
    if path.resolve() in inside:
        raise ConfigError(f"{source}: the config inherits from itself")
    inside = (*inside, path.resolve())
    if path.suffix not in (".py", ".json"):
        convert = "; `chordate convert-config` converts files of Detectron2" if path.suffix in (".yaml", ".yml") else ""
        raise ConfigError(f"{source}: configs are Python or JSON files (.py or .json){convert}")
    look_for_modules_in(path.parent)
    try:
        text = read_text(path)
        if path.suffix == ".json":
            return _layers(json.loads(text), source, path, inside)
        if TEMPLATE.search(text):
            raise ConfigError(
                f"{source}: templates ({{{{…}}}}) are not supported; write os.environ[…], __file__ or _base_.… instead"
                f"; chordate convert-config converts {_source(inside[0])} if it is MMDetection's or MMSegmentation's"
            )
        code = ast.parse(text, str(path))
        _check_is_ours(code, source, inside)
        assigned = [node for node in code.body if isinstance(node, ast.Assign)]
        bases = [node for node in assigned if ast.unparse(node.targets[0]) == "_base_"]
        code.body = [node for node in code.body if node not in bases]
        own = Layer(source, path, _custom_imports(assigned))
        below = _base_layers([_literal(node.value, source) for node in bases], own, inside)
        return _layers(_run(code, path, below), source, path, inside, below)
    except ChordateError:
        raise
    except (Exception, SystemExit) as error:  # a config is Python code; any exception in it is a mistake in the config
        if path.suffix == ".json" and isinstance(error, RecursionError):
            raise ConfigError(f"{source}: lists or objects are nested too deeply") from None
        raise ConfigError(import_error(source, error)) from error


def _check_is_ours(code: ast.Module, source: str, inside: tuple[Path, ...]) -> None:
    """Check that a file does not have the syntax of other frameworks' configs, so that its code is not run.

    Raises:
        ConfigError: it has `with read_base():` of OpenMMLab, or is a LazyConfig of Detectron2.
    """
    syntax = foreign_syntax(code)
    if syntax == "read_base":
        raise ConfigError(
            f"{source}: a config of MMDetection or MMSegmentation (read_base); chordate convert-config --execute "
            f"converts {_source(inside[0])}, and runs its code"
        )
    if syntax == "LazyConfig":
        raise ConfigError(
            f"{source}: a LazyConfig of Detectron2, which cannot be converted; chordate convert-config converts the "
            f"yaml file of the same model"
        )


def read_text(path: Path) -> str:
    """Read the text of a config file.

    Raises:
        ConfigError: the file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{_source(path)}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def dict_layers(values: Mapping[str, Any], source: str = "config") -> list[Layer]:
    """The config layers that a dict inherits, then the layer of the dict itself."""
    return once(_layers(dict(values), source, None, ()))


def once(layers: Iterable[Layer]) -> list[Layer]:
    """Remove repeated layers: if a file is inherited more than once, only its first layer is kept."""
    seen: set[Path] = set()
    kept = []
    for layer in layers:
        if layer.path is None or layer.path.resolve() not in seen:
            kept.append(layer)
            seen |= {layer.path.resolve()} if layer.path else set()
    return kept


def _layers(
    values: dict[str, Any], source: str, path: Path | None, inside: tuple[Path, ...], below: Sequence[Layer] = ()
) -> list[Layer]:
    """The config layers that `values` inherits by its keys `base` and `_base_`, then the layer of `values` itself."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: a config must be a dict of sections, got {type(values).__name__}")
    _check_depth(values, source)
    own = Layer(source, path, values)
    below = [*below, *_base_layers([values.pop("_base_", [])], own, inside)]
    base = values.pop("base", None)
    lowest = [] if base is None else config_layers(_find("base", base, [*below, own]), inside)
    return once([*lowest, *below, own])


def _check_depth(values: dict[str, Any], source: str) -> None:
    """Raise ConfigError if dicts and lists are nested more than MAX_CONFIG_DEPTH levels deep, or contain themselves."""
    level: dict[int, Any] = {id(values): values}
    for _ in range(MAX_CONFIG_DEPTH):
        items = (item for v in level.values() for item in (v.values() if isinstance(v, Mapping) else v))
        level = {id(item): item for item in items if isinstance(item, Mapping | list | tuple)}
        if not level:
            return
    raise ConfigError(f"{source}: a setting contains itself, or is nested more than {MAX_CONFIG_DEPTH} levels deep")


def _base_layers(bases: Sequence[Any], own: Layer, inside: tuple[Path, ...]) -> list[Layer]:
    """The config layers of the files and config names listed in `_base_`; files are relative to the folder of `own`,
    the layer that lists them."""
    folder = (own.path or Path("config")).parent
    layers: list[Layer] = []
    for base in bases:
        for name in base if isinstance(base, list | tuple) else [base]:
            layers = once([*layers, *config_layers(_find("_base_", name, [*layers, own], folder), inside)])
    return layers


def _find(key: str, name: Any, layers: Sequence[Layer], folder: Path | None = None) -> Path | Composition:
    """Find the config that the key `base` or `_base_` refers to, by file path or config name.

    Args:
        key: `base` or `_base_`.
        name: the value of the key, or one item of it.
        layers: config layers whose `custom_imports` may register the backbone in the config's name; the last one has
            the key.
        folder: the folder that files in `_base_` are relative to; None for `base`.
    """
    source = layers[-1].source
    if not (isinstance(name, str | Path) and str(name)):
        wanted = "a packaged config or a file" if folder is None else "one or more config files or packaged configs"
        raise ConfigError(f"{source}: {key} must name {wanted}, got {format_value(name)}")
    if folder is not None and (is_file_name(name) or (folder / name).is_file()):
        name = folder / name
    else:
        for number, layer in enumerate(layers, 1):
            if "custom_imports" in layer.values:
                import_custom_modules(_merged(layers[:number])["custom_imports"], layer.source)
    try:
        return find_config(name)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _custom_imports(assigned: Iterable[ast.Assign]) -> dict[str, Any]:
    """A Python config's `custom_imports`, read without running the file; empty if it is missing or not a literal."""
    for node in assigned:
        if ast.unparse(node.targets[0]) == "custom_imports":
            with suppress(ValueError):
                return {"custom_imports": literal(ast.unparse(node.value))}
    return {}


def _literal(node: ast.expr, source: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        text = ast.unparse(node)
        raise ConfigError(f"{source}: _base_ must be a string or list of strings, not an expression: {text}") from None


def _run(code: ast.Module, path: Path, below: Sequence[Layer]) -> dict[str, Any]:
    """Run a Python config and return its variables; its code can read the merged base files as `_base_`."""
    names: dict[str, Any] = {"_base_": ConfigDict(_merged(below)), "__file__": str(path), "__name__": path.stem}
    exec(compile(code, str(path), "exec"), names)
    return {
        name: value
        for name, value in names.items()
        if name != "_base_" and name[:2] != "__" and not isinstance(value, ModuleType | FunctionType | type)
    }


def _merged(layers: Iterable[Layer]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for rank, layer in enumerate(layers):
        merge(values, layer.values, layer.origin(rank), {})
    return values


def _source(path: Path) -> str:
    """The path as shown in messages: `configs/…` for packaged files, relative for other files in the current folder,
    else unchanged."""
    full = path.resolve()
    for folder, prefix in ((package_root().resolve(), "configs/"), (Path.cwd().resolve(), "")):
        if full.is_relative_to(folder):
            return f"{prefix}{full.relative_to(folder).as_posix()}"
    return str(path)
