"""Describes, for error messages, the values that a type annotation allows, and the invalid item of a rejected value."""

from __future__ import annotations

import itertools
import math
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Predicate

from chordate.errors import near_names, repr_name
from chordate.text import pluralize

NOUNS = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
    os.PathLike: "a path",
    NoneType: "None",
}
PLURALS = {int: "integers", float: "numbers", bool: "True or False", str: "strings"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 80
_shortened.maxdict = _shortened.maxlist = _shortened.maxtuple = 8


class Rejection(NamedTuple):
    """The item of a (nested) value that a type annotation rejects.

    Attributes:
        path: keys and indices from the value to the rejected item.
        message: error message about the item, such as "must be ≥ 0, got -1".
    """

    path: tuple[str, ...]
    message: str


def rejection(annotation: Any, value: Any, fits: Callable[[Any, Any], bool]) -> Rejection:
    """Find the item of a rejected value that does not fit its annotation.

    Args:
        annotation: an annotation that `chordate.signatures.checkable` reduced to int, float, bool, str, None, Literal,
            Annotated, other classes, and unions, Sequence, tuple and Mapping of these.
        value: the rejected value.
        fits: `fits(annotation, value)` returns whether the value fits the annotation.
    """
    inner = _strip(annotation)
    options = [option for option in _members(inner) if _is_container(option, value)]
    if len(options) == 1:
        container = _strip(options[0])
        for key, item, kind in _items(container, value):
            if not fits(kind, item):
                path, message = rejection(kind, item, fits)
                return Rejection((key, *path), message)
    return Rejection((), f"must be {allowed(annotation, value)}, got {format_value(value)}")


def format_value(value: Any) -> str:
    """Format a value as it is written in a config, on one line, truncated if long."""
    text = repr_name(value) if isinstance(value, str) and len(value) < 80 else _shortened.repr(value)
    return " ".join(text.split())


def allowed(annotation: Any, value: Any = None) -> str:
    """Describe the values that an annotation allows: "an integer ≥ 1", or "≥ 1" if `value` is an integer."""
    members = _members(_strip(annotation))
    if len(members) > 1:
        literals = [literal for member in members if get_origin(member) is Literal for literal in get_args(member)]
        others = [member for member in members if get_origin(member) is not Literal]
        texts = ([_one_of(literals, value)] if literals else []) + [allowed(member, value) for member in others]
        last = [text for text in texts if text == "None"]
        return " or ".join([text for text in texts if text != "None"] + last)
    inner, bounds = _strip(annotation), _bounds(annotation, value)
    if inner in (int, float):
        is_number = isinstance(value, int if inner is int else int | float) and not isinstance(value, bool)
        noun = [] if bounds and is_number else [NOUNS[inner]]
        return " ".join([*noun, " and ".join(bounds)]).strip()
    if get_origin(inner) is Literal:
        return _one_of(list(get_args(inner)), value)
    metadata = getattr(annotation, "__metadata__", ())
    predicate = next((item.func.__doc__ for item in metadata if isinstance(item, Predicate)), None)
    if get_origin(inner) is tuple and Ellipsis not in get_args(inner):
        kinds = get_args(inner)
        if predicate is not None:
            return f"a list {predicate.replace('of', f'of {len(kinds)}', 1)}"
        if len(set(kinds)) == 1:
            return f"a list of {len(kinds)} {_plural(kinds[0]) or 'items'}"
        return f"a list of {len(kinds)}: {', '.join(map(allowed, kinds))}"
    if get_origin(inner) in (Sequence, tuple):
        if predicate is not None:
            return f"a list {predicate}"
        return " ".join(["a list", *([f"of {plural}"] if (plural := _plural(get_args(inner)[0])) else []), *bounds])
    if get_origin(inner) is Mapping:
        return "a dict"
    if inner in NOUNS:
        return NOUNS[inner]
    return f"{'an' if inner.__name__[0] in 'AEIOU' else 'a'} {inner.__name__}"


# Error messages contain the docstrings of the next three predicates: `allowed` appends them to "a list ".
def ascend(items: Sequence[float]) -> bool:
    """of strictly increasing numbers"""
    return all(earlier < later for earlier, later in itertools.pairwise(items))


def do_not_descend(items: Sequence[float]) -> bool:
    """of non-decreasing numbers"""
    return all(earlier <= later for earlier, later in itertools.pairwise(items))


def are_names(items: Sequence[str]) -> bool:
    """of one or more distinct names"""
    return 0 < len(set(items)) == len(items)


def _one_of(literals: list[Any], value: Any) -> str:
    names = [format_value(literal) for literal in literals]
    if len(names) == 1:
        return names[0]
    close = near_names(value, [text for text in literals if isinstance(text, str)], 1) if isinstance(value, str) else []
    return f"one of {', '.join(names)}" + (f" (did you mean {repr_name(close[0])}?)" if close else "")


def _plural(annotation: Any) -> str:
    members = _members(_strip(annotation))
    inner = members[0] if len(members) == 1 else None
    if get_origin(inner) is Mapping:
        return "dicts"
    if inner in PLURALS:
        return " ".join([PLURALS[inner], " and ".join(_bounds(annotation))]).strip()
    return "" if inner is Any else f"items, each {allowed(annotation)}"


def _strip(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Union else (annotation,)


def _bounds(annotation: Any, value: Any = None) -> list[str]:
    """Bounds such as `["≥ 0", "< 1"]` from the metadata of an Annotated (annotated_types, pydantic's Field)."""
    if get_origin(annotation) is not Annotated:
        return []
    metadata = [inner for item in annotation.__metadata__ for inner in getattr(item, "metadata", [item])]
    bounds = []
    for item in metadata:
        for name, sign in BOUNDS.items():
            limit = getattr(item, name, None)
            if limit == math.inf:
                bounds += ["finite"] if value == math.inf else []
            elif limit is not None:
                bounds.append(f"{sign} {limit:g}")
        if getattr(item, "min_length", None):
            bounds.append(f"with at least {pluralize(item.min_length, 'item')}")
        if getattr(item, "max_length", None) is not None:
            bounds.append(f"with at most {pluralize(item.max_length, 'item')}")
    return bounds


def _is_container(annotation: Any, value: Any) -> bool:
    """Whether the value is a list or dict as annotated; for a tuple of fixed length, a list of this length.

    If such a value is rejected, either an item is invalid, or the list violates a bound or predicate (length, order).
    """
    inner = _strip(annotation)
    if get_origin(inner) is tuple and Ellipsis not in get_args(inner):
        return isinstance(value, list | tuple) and len(value) == len(get_args(inner))
    if get_origin(inner) in (Sequence, tuple):
        return isinstance(value, list | tuple)
    return get_origin(inner) is Mapping and isinstance(value, Mapping)


def _items(annotation: Any, value: Any) -> list[tuple[str, Any, Any]]:
    """The key, value and annotation of each item of a list or dict."""
    kinds = get_args(annotation)
    if get_origin(annotation) is Mapping:
        return [(str(key), item, kinds[1]) for key, item in value.items()]
    if get_origin(annotation) is tuple and Ellipsis not in kinds:
        return [(str(index), item, kind) for index, (item, kind) in enumerate(zip(value, kinds))]
    return [(str(index), item, kinds[0]) for index, item in enumerate(value)]
