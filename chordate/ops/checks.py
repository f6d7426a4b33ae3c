"""Checks of the numbers that a config hands to a part: what does not make sense is one line, not a failure later."""

from collections.abc import Sequence
from typing import Any

from chordate.errors import ConfigError


def whole(part: str, least: int, **values: Any) -> None:
    """Raise ConfigError unless each is a whole number of at least `least`."""
    for name, value in values.items():
        if not _is_whole(value, least):
            raise ConfigError(f"{part}: {name}={value!r}; it is a whole number of at least {least}")


def share(part: str, **values: Any) -> None:
    """Raise ConfigError unless each is a number in 0 … 1."""
    for name, value in values.items():
        if not _is_share(value):
            raise ConfigError(f"{part}: {name}={value!r}; it is a number in 0 … 1")


def whole_pair(part: str, least: int, **values: Any) -> None:
    """Raise ConfigError unless each is two whole numbers of at least `least`."""
    for name, value in values.items():
        if not (_is_pair(value) and all(_is_whole(number, least) for number in value)):
            raise ConfigError(
                f"{part}: {name}={value!r}; it is two whole numbers of at least {least}, for training and for testing"
            )


def rising_shares(part: str, **values: Any) -> None:
    """Raise ConfigError unless each is two numbers in 0 … 1, the second not below the first."""
    for name, value in values.items():
        if not (_is_pair(value) and all(map(_is_share, value)) and value[0] <= value[1]):
            raise ConfigError(f"{part}: {name}={value!r}; it is two numbers in 0 … 1, the lower first")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
