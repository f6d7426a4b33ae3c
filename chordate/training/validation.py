"""Validates a config's section against the annotations of a dataclass or function (until chordate.arguments does)."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from chordate.errors import ConfigError, unknown

T = TypeVar("T")
SIGNS = {"greater than or equal to": "≥", "less than or equal to": "≤", "greater than": ">", "less than": "<"}


def validated(build: Callable[..., T], values: Any, where: str) -> T:
    """`build(**values)` with each value checked by its annotation, in strict mode (a bool is no number).

    Raises:
        ConfigError: one line with the setting, what is allowed, and the value.
    """
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{where} must be a dict of settings, got {values!r}")
    hints = typing.get_type_hints(build, include_extras=True)
    parameters = inspect.signature(build).parameters
    for name, value in values.items():
        if name not in parameters:
            raise ConfigError(unknown(f"setting of `{where}`", name, parameters))
        try:
            TypeAdapter(hints.get(name, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            allowed = " or ".join(dict.fromkeys(_allowed(one["msg"]) for one in error.errors()))
            place = ".".join([where, name, *(str(part) for part in error.errors()[0]["loc"] if isinstance(part, str) and part in str(value))])
            raise ConfigError(f"{place} must be {allowed}, got {value!r}") from error
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in values]
    if missing:
        raise ConfigError(f"{where} has no {missing[0]}; add {missing[0]}=…")
    return build(**values)


def _allowed(message: str) -> str:
    message = message.removeprefix("Input should be ").replace("'", '"')
    for words, sign in SIGNS.items():
        message = message.replace(words, sign)
    return message
