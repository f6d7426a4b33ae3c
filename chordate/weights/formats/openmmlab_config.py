"""The config in a checkpoint of MMDetection, MMSegmentation or MMPretrain: its text is read as data, never executed."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from chordate.text import printable

MAX_TEXT = 1_000_000  # limit in characters, since the file may be untrusted
# Strides of the stages of a ResNet -> output stride.
OUTPUT_STRIDES: dict[tuple[int, ...], int] = {(1, 2, 2, 2): 32, (1, 2, 2, 1): 16, (1, 2, 1, 1): 8}
PARTS = ("backbone", "neck", "rpn_head", "roi_head", "bbox_head", "decode_head", "auxiliary_head", "head")
_PLAIN = (None, "Conv", "Conv2d")  # types of `conv_cfg` that are ordinary convolutions
_FOLDED = {(part, "ConvWS") for part in ("backbone", "neck", "roi_head")}  # see `weight_standardization`


def config_of(contents: Mapping[Any, Any]) -> dict[str, Any]:
    """The variables with literal values in a checkpoint's config; {} if the config is missing, too long or invalid.

    Args:
        contents: entries of the checkpoint besides the weights: `{"meta": {"cfg": text}}` in MMEngine's files,
            `{"meta": {"config": text}}` in MMCV's. All base files are merged into the text.
    """
    meta = contents.get("meta")
    texts = (meta.get("cfg"), meta.get("config")) if isinstance(meta, Mapping) else ()
    return read_text(next((text for text in texts if isinstance(text, str) and len(text) <= MAX_TEXT), ""))


@lru_cache(maxsize=4)
def read_text(text: str) -> dict[str, Any]:
    """Parse a config's text: returns its variables with literal values; {} if the text is not valid Python."""
    values: dict[str, Any] = {}
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values |= _entries([(node.targets[0].id, node.value)])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return values


def _entries(pairs: list[tuple[Any, ast.expr]]) -> dict[str, Any]:
    """The entries with literal values, from pairs of a key and the expression of its value."""
    entries = {}
    for key, node in pairs:
        try:
            entries[str(key)] = _value(node)
        except (TypeError, ValueError):
            continue
    return entries


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return _entries([(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg])
    if isinstance(node, ast.Dict):
        return _entries([(getattr(key, "value", None), value) for key, value in zip(node.keys, node.values)])
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield `value`, if it is a dict, and all dicts nested in it, breadth first."""
    queue = deque([value])
    while queue:
        item = queue.popleft()
        if isinstance(item, dict):
            yield item
        queue.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())


def at(values: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path of nested dicts and lists (`model.roi_head.bbox_head.0`); `default` if missing."""
    for key in path.split("."):
        if isinstance(values, list) and key.isdigit() and int(key) < len(values):
            values = values[int(key)]
        elif isinstance(values, dict) and key in values:
            values = values[key]
        else:
            return default
    return values


def pixels(config: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...], bool] | None:
    """Mean, std, and whether images are BGR, from the first dict with a mean and a std; None if no dict has both."""
    for values in dicts(config):
        mean, std = numbers(values.get("mean")), numbers(values.get("std"))
        if mean and std and len(mean) == len(std):
            rgb = next((values[key] for key in ("bgr_to_rgb", "to_rgb") if key in values), False)
            return mean, std, rgb is not True
    return None


def numbers(value: Any) -> tuple[float, ...]:
    """A list of at most 16 numbers, as a tuple of floats; () for other values."""
    is_list = isinstance(value, list) and 0 < len(value) <= 16
    are_numbers = is_list and all(type(number) in (int, float) and abs(number) < 1e9 for number in value)
    return tuple(map(float, value)) if are_numbers else ()


def size_divisor(config: dict[str, Any], default: int) -> int:
    """The divisor of padded sizes, from the data preprocessor or (older versions) the pipeline; else `default`."""
    for values in dicts(config):
        value = values.get("pad_size_divisor", values.get("size_divisor") if values.get("type") == "Pad" else None)
        if isinstance(value, int) and 0 < value <= 1024:
            return value
    return default


def not_supported(config: dict[str, Any]) -> list[str]:
    """The network's settings that Chordate does not support, such as `decode_head.align_corners=True`."""
    found = []
    for name in PARTS:
        for values in dicts(at(config, f"model.{name}")):
            convolution = at(values, "conv_cfg.type")
            if convolution not in _PLAIN and (name, convolution) not in _FOLDED:
                found.append(f"{name}.conv_cfg={printable(str(convolution), 40)}")
            if values.get("align_corners") is True:
                found.append(f"{name}.align_corners=True")
            found += [f"{name}.{key}" for key in ("dcn", "plugins") if values.get(key)]
    return list(dict.fromkeys(found))
