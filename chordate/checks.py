"""Checks of the values in a config: one that makes no sense is told in one line, not a failure later."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from chordate.errors import ConfigError


def number(
    where: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Raise ConfigError unless `value` is a finite number (True and False are none) in a range.

    Args:
        where: the setting, such as "optimizer.lr".
        value: what the config has there.
        least, above, below: bounds; None is none. `least` itself is allowed, `above` and `below` are not.
        whole: only whole numbers.
    """
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and math.isfinite(value)
    if fits and (
        (least is None or value >= least) and (above is None or value > above) and (below is None or value < below)
    ):
        return
    limits = [("of at least", least), ("above", above), ("below", below)]
    limit = " and ".join(f"{word} {bound}" for word, bound in limits if bound is not None)
    raise ConfigError(f"{where} is a {'whole ' if whole else ''}number{f' {limit}' if limit else ''}, not {value!r}")


def switch(where: str, value: Any) -> None:
    """Raise ConfigError unless the setting is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} is True or False, not {value!r}")


def whole(part: str, least: int, **values: Any) -> None:
    """Raise ConfigError unless each setting of `part` is a whole number of at least `least`."""
    for name, value in values.items():
        number(f"{part}: {name}", value, least=least, whole=True)


def share(part: str, **values: Any) -> None:
    """Raise ConfigError unless each setting of `part` is a number in 0 … 1."""
    for name, value in values.items():
        if not _is_share(value):
            raise ConfigError(f"{part}: {name} is a number in 0 … 1, not {value!r}")


def whole_pair(part: str, least: int, **values: Any) -> None:
    """Raise ConfigError unless each setting of `part` is two whole numbers of at least `least`."""
    for name, value in values.items():
        if not (_is_pair(value) and all(_is_whole(one, least) for one in value)):
            raise ConfigError(
                f"{part}: {name} is two whole numbers of at least {least}, for training and for testing, not {value!r}"
            )


def rising_shares(part: str, **values: Any) -> None:
    """Raise ConfigError unless each setting of `part` is two numbers in 0 … 1, the second not below the first."""
    for name, value in values.items():
        if not (_is_pair(value) and all(map(_is_share, value)) and value[0] <= value[1]):
            raise ConfigError(f"{part}: {name} is two numbers in 0 … 1, the lower first, not {value!r}")


def section(where: str, value: Any) -> Mapping[str, Any]:
    """The section of a config, empty where it is None.

    Raises:
        ConfigError: it is no dict of settings.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where} is a dict of settings, not {value!r}")
    return value


def listed(where: str, value: Any) -> list[Any]:
    """The values of a list or tuple.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is a list, not {value!r}")
    return list(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
