"""Checks that a dataset has the members that a metric reads."""

from __future__ import annotations

import inspect

from chordate.errors import DataError


def check_members(dataset: object, protocol: type, metric: str) -> None:
    """Check that `dataset` has the attributes and methods of `protocol`; messages name `metric`.

    Raises:
        DataError: a member is missing.
    """
    members = [*protocol.__annotations__]
    members += [name for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"]
    missing = [name for name in members if not hasattr(dataset, name)]
    if missing:
        raise DataError(
            f"{metric} needs a dataset with the members {', '.join(members)} (see {protocol.__module__}."
            f"{protocol.__name__}); {type(dataset).__name__} has no {', '.join(missing)}"
        )
