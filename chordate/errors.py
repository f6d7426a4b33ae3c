"""User errors: one line each, with the file, the setting and the remedy.

The commands print a `ChordateError` without a traceback and exit with status 2. Any other exception is a bug and keeps
its traceback.
"""

import difflib
from collections.abc import Iterable

from chordate.text import printable


class ChordateError(Exception):
    """An error that the user can fix; the message is one line, whatever the names in it, and says how."""

    def __str__(self) -> str:
        return printable(" ".join(super().__str__().splitlines()), None)


class ConfigError(ChordateError):
    """A config names a type, file or setting that does not exist, or parts that do not fit together.

    Args:
        message: one line.
        located: whether the message names the setting's path, and its file where that is known.
    """

    def __init__(self, message: str, *, located: bool = False):
        super().__init__(message)
        self.located = located


class DataError(ChordateError):
    """An image or annotation is missing, broken or contradicts the model."""


class UnknownClass(DataError):
    """A class is asked for that the data do not have."""


class CheckpointError(ChordateError):
    """A checkpoint cannot be read, or belongs to another model."""


class TrainingError(ChordateError):
    """Training cannot go on, for example because a loss is no longer finite."""


def near_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` names of `known` that are most similar to `name`, best first, letter case ignored."""
    by_lower: dict[str, str] = {}
    for candidate in known:
        by_lower.setdefault(candidate.lower(), candidate)
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=count, cutoff=0.5)
    return [by_lower[lower] for lower in close]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a misspelled name: `unknown backbone "Resnet50"; did you mean "ResNet"? Known: …`."""
    known = sorted(known)
    close = near_names(name, known)
    guess = f"; did you mean {' or '.join(repr_name(c) for c in close)}?" if close else "."
    if close and len(known) > 40:  # a truncated list says less than the guess
        return f"unknown {kind} {repr_name(name)}{guess}"
    shown = ", ".join(known[:40]) + (" …" if len(known) > 40 else "")
    return f"unknown {kind} {repr_name(name)}{guess} Known: {shown or 'none'}"


def repr_name(name: str) -> str:
    """The name in double quotes, as it would be written in a config."""
    return f'"{name}"'
