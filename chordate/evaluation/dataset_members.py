"""Checks that a dataset has the members that a metric reads."""

from __future__ import annotations

from chordate.errors import DataError


def check_members(dataset: object, metric: str, *members: str) -> None:
    """Check that `dataset` has the attributes and methods `members`; messages name `metric`.

    Raises:
        DataError: a member is missing.
    """
    missing = [name for name in members if not hasattr(dataset, name)]
    if missing:
        raise DataError(
            f"{metric} needs a dataset with {', '.join(members)}; {type(dataset).__name__} has no {', '.join(missing)}"
        )
