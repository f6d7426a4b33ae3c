"""NameTable: pairs of tensor names in two libraries, to rename state dicts in both directions."""

from __future__ import annotations

import re

from chordate.weights.formats.format import State

Pairs = tuple[tuple[str, str], ...]  # see `NameTable`


class NameTable:
    """Renames tensors between another library and ours by the prefixes of their names.

    Args:
        pairs: (theirs, ours): prefixes of names, ending with a dot. `#` is a number; numbers are copied in order:
            `("res2.#.conv#.", "layer1.#.conv#.")`. The first pair that matches is used, in both directions.
    """

    def __init__(self, *pairs: tuple[str, str]):
        self.pairs = pairs
        self._to_ours = [(_pattern(theirs), _replacement(ours)) for theirs, ours in pairs]
        self._to_theirs = [(_pattern(ours), _replacement(theirs)) for theirs, ours in pairs]

    def convert(self, state: State) -> State:
        """Rename to our names; names that match no pair are unchanged."""
        return {_rename(name, self._to_ours) or name: tensor for name, tensor in state.items()}

    def restore(self, state: State) -> State:
        """Rename to the library's names, and leave out tensors that match no pair."""
        renamed = {_rename(name, self._to_theirs): tensor for name, tensor in state.items()}
        return {name: tensor for name, tensor in renamed.items() if name is not None}


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("^" + re.escape(name).replace(r"\#", r"(\d+)"))


def _replacement(name: str) -> str:
    numbers = iter(range(1, 10))
    return re.sub("#", lambda _: rf"\g<{next(numbers)}>", name)


def _rename(name: str, pairs: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in pairs:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return None
