"""What a foreign format of checkpoints is: families of models, each known by its names, and how these become ours."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

State = dict[str, Tensor]
# Pattern and replacement, the first that matches counts.
Names = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


class Family(NamedTuple):
    """How to know a family's state dict by its names, and how to turn it into one for `model`."""

    recognise: Callable[[State], bool]
    convert: Callable[[State, Any], State]


class Format(NamedTuple):
    """A library's state dicts; at most one of its families recognises each."""

    name: str
    families: tuple[Family, ...]

    def recognise(self, state: State) -> bool:
        """Looks at names only."""
        return any(family.recognise(state) for family in self.families)

    def convert(self, state: State, model: Any) -> State:
        """The state dict in the names of `model`.

        What stands for nothing of ours keeps its name, and is reported as skipped or as not fitting.
        """
        family = next(family for family in self.families if family.recognise(state))
        return family.convert(state, model)


def renamed(name: str, names: Names) -> str:
    """The name by the first pattern that matches its beginning; as it is where none does."""
    for pattern, replacement in names:
        ours, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return ours
    return name
