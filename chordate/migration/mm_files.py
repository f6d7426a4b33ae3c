"""Reads the Python configs of MMDetection and MMSegmentation, with their `_base_` files, as data."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from chordate.errors import ConfigError
from chordate.foreign_configs import foreign_syntax
from chordate.migration.python_literals import Evaluator, parse
from chordate.migration.source_files import SourceFiles, merged
from chordate.text import one_line

EXECUTE = "if you trust the file, --execute runs it"


def read_mm(path: Path) -> dict[str, Any]:
    """The variables of an MMDetection or MMSegmentation config, merged with its `_base_` files; no code is executed.

    Raises:
        ConfigError: a file cannot be read, or has a statement that cannot be read without running it.
    """
    files = SourceFiles(lambda file, text: _read(file, text, files))
    return files.load(path)


def execute_mm(path: Path) -> dict[str, Any]:
    """Run an MMDetection or MMSegmentation config with mmengine; returns its variables.

    Raises:
        ConfigError: the code raises an exception.
    """
    from mmengine.config import Config

    try:
        return Config.fromfile(path).to_dict()
    except (Exception, SystemExit) as error:  # a config's code may raise any exception
        raise ConfigError(f"{path}: {type(error).__name__}: {one_line(error)}") from error


def short_types(value: Any) -> Any:
    """Copy settings, with dotted types shortened to the last part: `mmdet.models.FasterRCNN` becomes `FasterRCNN`."""
    if isinstance(value, dict):
        items = {key: short_types(item) for key, item in value.items()}
        return {**items, "type": items["type"].rpartition(".")[2]} if isinstance(items.get("type"), str) else items
    return list(map(short_types, value)) if isinstance(value, list) else value


def _read(path: Path, text: str, files: SourceFiles) -> dict[str, Any]:
    code = parse(text, str(path))
    syntax = foreign_syntax(code)
    if syntax == "LazyConfig":
        raise ConfigError(
            f"{path}: Detectron2's LazyConfigs are not supported; convert the yaml file of the same model"
        )
    if syntax == "read_base":
        raise ConfigError(f"{path}: uses read_base(), which cannot be read without running it; {EXECUTE}")
    base: dict[str, Any] = {}
    names: dict[str, Any] = {"_base_": base}
    evaluator = Evaluator(str(path), names)
    for node in code.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue  # imported names have no value; using one is an error
        if not isinstance(node, ast.Assign):
            text = ast.unparse(node).splitlines()[0][:80]
            raise ConfigError(f"{path}: line {node.lineno}: cannot be read without running it: {text}; {EXECUTE}")
        value = evaluator.evaluate(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == "_base_":
                base |= _bases(value, path, files)
            else:
                _assign(target, value, names, evaluator, path)
    own = {name: value for name, value in names.items() if not name.startswith("_")}
    return merged(base, own)


def _bases(names: Any, path: Path, files: SourceFiles) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in names if isinstance(names, list | tuple) else [names]:
        if not isinstance(name, str) or "::" in name or "://" in name:
            raise ConfigError(f"{path}: _base_ must name local files, got {str(name)[:80]!r}")
        values = merged(values, files.load(path.parent / name))
    return values


def _assign(target: ast.expr, value: Any, names: dict[str, Any], evaluator: Evaluator, path: Path) -> None:
    """Assign a value to a variable, or to a nested setting: `_base_.train_cfg.max_epochs = 36`."""
    if isinstance(target, ast.Name):
        names[target.id] = value
        return
    steps: list[Any] = []
    inner = target
    while isinstance(inner, ast.Attribute | ast.Subscript):
        steps.append(inner.attr if isinstance(inner, ast.Attribute) else evaluator.evaluate(inner.slice))
        inner = inner.value
    try:
        owner = names[inner.id]  # type: ignore[attr-defined]
        for step in reversed(steps[1:]):
            owner = owner[step]
        owner[steps[0]] = value
    except (AttributeError, LookupError, TypeError) as error:
        text = ast.unparse(target)[:80]
        raise ConfigError(f"{path}: line {target.lineno}: cannot assign to {text}; {EXECUTE}") from error
