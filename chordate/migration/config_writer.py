"""Writes a config as a Python file."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from chordate.section_names import SECTIONS

WIDTH = 120
RANGE = 4  # lists of at least so many consecutive numbers are written as a range


def write_config(docstring: list[str], base: str, sections: Mapping[str, Any]) -> str:
    """The text of a config that inherits from the packaged config `base`.

    Args:
        docstring: lines of the docstring.
        base: name of the packaged config.
        sections: the settings that override it.
    """
    lines = ['"""' + docstring[0], *docstring[1:], '"""'] if len(docstring) > 1 else [f'"""{docstring[0]}"""']
    lines += ["", f'base = "{base}"']
    order = sorted(sections, key=lambda name: SECTIONS.index(name) if name in SECTIONS else len(SECTIONS))
    lines += [f"{name} = {_format(sections[name], 0, len(name) + 3)}" for name in order]
    return "\n".join(lines) + "\n"


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
        names = [key if joint == "=" else repr(key) for key in value]
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
        return f"{{{', '.join(f'{_quoted(key)}: {_on_one_line(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        whole = len(value) >= RANGE and all(type(item) is int for item in value)
        if whole and list(value) == list(range(value[0], value[0] + len(value))):
            return f"[*range({value[0]}, {value[-1] + 1})]"
        return f"[{', '.join(map(_on_one_line, value))}]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _are_identifiers(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) and key.isidentifier() for key in value)


def _quoted(text: Any) -> str:
    """A literal with double quotes where possible."""
    literal = repr(text)
    return f'"{literal[1:-1]}"' if isinstance(text, str) and literal[0] == "'" and '"' not in literal else literal
