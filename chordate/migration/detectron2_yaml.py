"""Reads Detectron2's YAML configs, with their `_BASE_` files, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from chordate.errors import ConfigError
from chordate.migration.python_literals import Evaluator
from chordate.migration.source_files import SourceFiles, merged
from chordate.text import one_line

EVAL_TAG = "tag:yaml.org,2002:python/object/apply:eval"  # Detectron2's RetinaNet configs compute anchor sizes with it
MAX_ITEMS = 20_000  # limit on the number of settings in a file; an alias counts each time it is used

MAX_DIGITS = 100  # limit on the length of a number
NUMBER = re.compile(rf"(?=.{{1,{MAX_DIGITS}}}$)[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{{1,3}})?", re.IGNORECASE)


def read_detectron2(path: Path) -> dict[str, Any]:
    """The settings of a Detectron2 config and its `_BASE_` files, as nested dicts; no code in them is executed.

    Raises:
        ConfigError: a file cannot be read or is not a Detectron2 config.
    """
    files = SourceFiles(lambda file, text: _read(file, text, files))
    return files.load(path)


def _read(path: Path, text: str, files: SourceFiles) -> dict[str, Any]:
    evaluator = Evaluator(str(path), {})

    class Loader(yaml.SafeLoader):
        """SafeLoader with the eval tag of Detectron2's configs; refuses merge keys, whose expansion has no limit."""

        def construct_scalar(self, node: yaml.ScalarNode) -> Any:
            if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
                raise ConfigError(f"{path}: line {node.start_mark.line + 1}: a number is too long")
            return super().construct_scalar(node)

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise ConfigError(f"{path}: line {node.start_mark.line + 1}: merge keys (<<) are not supported")

    def apply_eval(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise ConfigError(f"{path}: line {node.start_mark.line + 1}: the eval tag needs a list with one string")
        return evaluator.text(arguments[0])

    Loader.add_constructor(EVAL_TAG, apply_eval)
    try:
        content = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error, 200)
        raise ConfigError(f"{path}: not a Detectron2 config: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: not a Detectron2 config: it must map names to settings")
    _check_size(content, str(path))
    values = _decoded(content, evaluator, {})
    base = values.pop("_BASE_", None)
    if base is None:
        return values
    bases = base if isinstance(base, list) else [base]
    result: dict[str, Any] = {}
    for name in bases:
        if not isinstance(name, str) or "://" in name:
            raise ConfigError(f"{path}: _BASE_ must name a local file, got {str(name)[:80]!r}")
        result = merged(result, files.load(path.parent / Path(name).expanduser()))
    return merged(result, values)


def _check_size(content: Any, source: str) -> None:
    """Raise ConfigError if there are too many settings, with aliases expanded."""
    stack, count = [content], 0
    while stack:
        value = stack.pop()
        count += 1
        if count + len(stack) > MAX_ITEMS:
            raise ConfigError(f"{source}: has more than {MAX_ITEMS:,} settings, so it is not a config")
        items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        stack += items


def _decoded(value: Any, evaluator: Evaluator, literals: dict[str, Any]) -> Any:
    """Replace strings that are Python literals, such as "(640, 672)" or "1e-3" (a string in YAML), by their values, as
    Detectron2 does.

    Args:
        literals: cache of the values of evaluated strings, since aliases may repeat a string any number of times.
    """
    if isinstance(value, dict):
        return {key: _decoded(item, evaluator, literals) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item, evaluator, literals) for item in value]
    if not isinstance(value, str) or not (value[:1] in ("(", "[", "{") or NUMBER.fullmatch(value)):
        return value
    if value not in literals:
        try:
            literals[value] = evaluator.text(value)
        except ConfigError:
            literals[value] = value
    return literals[value]
