"""Writes settings as a Python config: loading it gives the same settings, and no string in them runs as code."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any

from chordate.allowed_values import format_value
from chordate.errors import ConfigError
from chordate.section_names import SECTIONS
from chordate.text import printable

WIDTH = 120
RANGE = 4  # lists of at least this many consecutive integers are written as a range


def write_config(docstring: Sequence[str], base: str | None, sections: Mapping[str, Any]) -> str:
    """The text of a config.

    Args:
        docstring: lines of the docstring; none if empty.
        base: name or path of the config that it inherits from; None if `sections` are complete.
        sections: dict from section names to settings, which override those of `base`: numbers, strings, bools, None,
            and lists and dicts of them. Strings and keys may have any characters.

    Raises:
        ConfigError: a value cannot be written as a literal, or a section's name is not an identifier.
    """
    lines = _docstring(docstring) if docstring else []
    lines += [f"base = {_literal(base)}"] if base is not None else []
    for name in sorted(sections, key=lambda name: SECTIONS.index(name) if name in SECTIONS else len(SECTIONS)):
        if not _is_identifier(name):
            raise ConfigError(
                f"the name of a section must be an ASCII identifier and no keyword, got {format_value(name)}"
            )
        lines.append(f"{name} = {_format(sections[name], 0, len(name) + 3)}")
    return "\n".join(lines) + "\n"


def _docstring(lines: Sequence[str]) -> list[str]:
    """The docstring's lines and an empty line; replaces characters that could end the docstring or form a template."""
    replaced = str.maketrans({"\\": "/", '"': "'"})
    first, *rest = [printable(line, None).translate(replaced).replace("{{", "{ {") for line in lines]
    return [f'"""{first}', *rest, '"""', ""] if rest else [f'"""{first}"""', ""]


def _format(value: Any, indent: int, used: int) -> str:
    """The Python expression for a value, on one line if it fits.

    Args:
        value: numbers, strings, lists and dicts.
        indent: indentation of the line.
        used: characters on the line before the value, besides the indentation.
    """
    line = _on_one_line(value)
    items: list[str]
    if indent + used + len(line) + 1 <= WIDTH or not isinstance(value, Mapping | list | tuple) or not value:
        return line
    if isinstance(value, Mapping):
        opening, closing = ("dict(", ")") if _are_identifiers(value) else ("{", "}")
        joint = "=" if opening == "dict(" else ": "
        names = [key if joint == "=" else _literal(key) for key in value]
        items = [
            f"{name}{joint}{_format(item, indent + 4, len(name) + len(joint))}"
            for name, item in zip(names, value.values())
        ]
    else:
        opening, closing = "[", "]"
        if not any(isinstance(item, Mapping | list | tuple) for item in value):
            return _filled(list(map(_on_one_line, value)), indent)
        items = [_format(item, indent + 4, 0) for item in value]
    inner = "".join(f"{' ' * (indent + 4)}{item},\n" for item in items)
    return f"{opening}\n{inner}{' ' * indent}{closing}"


def _filled(items: list[str], indent: int) -> str:
    """A list with as many items per line as fit."""
    margin = " " * (indent + 4)
    text = textwrap.fill(", ".join(item.replace(" ", "\0") for item in items), WIDTH - 1, initial_indent=margin,
                         subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return f"[\n{text.replace(chr(0), ' ')},\n{' ' * indent}]"


def _on_one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        if _are_identifiers(value):
            return f"dict({', '.join(f'{key}={_on_one_line(item)}' for key, item in value.items())})"
        return f"{{{', '.join(f'{_literal(key)}: {_on_one_line(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        whole = len(value) >= RANGE and all(type(item) is int for item in value)
        if whole and list(value) == list(range(value[0], value[0] + len(value))):
            return f"[*range({value[0]}, {value[-1] + 1})]"
        return f"[{', '.join(map(_on_one_line, value))}]"
    return _literal(value)


def _are_identifiers(value: Mapping[Any, Any]) -> bool:
    return all(map(_is_identifier, value))


def _is_identifier(key: Any) -> bool:
    """Whether a key can be written as `key=`. It must be ASCII, since Python normalizes other identifiers."""
    return isinstance(key, str) and key.isascii() and key.isidentifier() and not iskeyword(key)


def _literal(value: Any) -> str:
    """The literal of a number, string, bool or None; a string has double quotes where possible."""
    if isinstance(value, str):
        literal = repr(str(value)).replace("{{", "{\\x7b")  # a config must not contain mmengine's templates, `{{ … }}`
        return f'"{literal[1:-1]}"' if literal[0] == "'" and '"' not in literal else literal
    if type(value) is float and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or type(value) in (bool, int, float):
        return repr(value)
    raise ConfigError(f"a config cannot contain {format_value(value)}")
