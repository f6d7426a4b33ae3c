"""Checks of the values in a config's `train`, `optimizer` and `schedule`: a wrong one is told in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from chordate.errors import ConfigError


def check_number(
    where: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Make sure that a value is a finite number (True and False are none) in a range.

    Args:
        where: the setting, such as "optimizer.lr".
        value: what the config has there.
        least, above, below: bounds; None is none. `least` itself is allowed, `above` and `below` are not.
        whole: only whole numbers.

    Raises:
        ConfigError: it is not.
    """
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and (
        (least is None or value >= least) and (above is None or value > above) and (below is None or value < below)
    ):
        return
    limits = [("of at least", least), ("above", above), ("below", below)]
    limit = " and ".join(f"{word} {bound}" for word, bound in limits if bound is not None)
    raise ConfigError(f"{where} is a {'whole ' if whole else ''}number{f' {limit}' if limit else ''}, not {value!r}")


def check_section(where: str, value: Any) -> Mapping[str, Any]:
    """The section of a config, empty where it is None.

    Raises:
        ConfigError: it is no dict of settings.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where} is a dict of settings, not {value!r}")
    return value


def check_list(where: str, value: Any) -> list[Any]:
    """The values of a list or tuple.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is a list, not {value!r}")
    return list(value)
