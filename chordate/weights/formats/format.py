"""Format: the state dicts of a foreign library's architecture, and how they become ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from chordate.structures import DatasetMeta

State = dict[str, Tensor]
Names = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


class Format:
    r"""The state dicts of one architecture of a foreign library, and their conversion to our names.

    `load_checkpoint` asks every registered format; of all conversions, the one with the most tensors that fit the
    model is loaded. A format from outside, imported by `custom_imports` or an entry point:

        from chordate.registry import FORMATS
        from chordate.weights.formats.format import Format, rename_all

        @FORMATS.register_module()
        class MyLibraryResNet(Format):
            library = "mylibrary"

            def recognizes(self, state):
                return "trunk.stage1.0.conv1.weight" in state

            def convert(self, state, model):
                return rename_all(state, ((r"trunk\.stage(\d)\.", r"backbone.layer\1."), (r"trunk\.", "backbone.")))

    Attributes:
        library: its name in reports and messages.
        stride_in_3x3: the library's bottlenecks have their stride in the 3×3 convolution (ResNet v1.5), so a model
            with the stride in the 1×1 computes other features from the same weights, and a warning says so.
    """

    library: str
    stride_in_3x3: bool = False

    def recognizes(self, state: State) -> bool:
        """Whether a state dict is of this format. Looks at names only."""
        raise NotImplementedError

    def convert(self, state: State, model: Any) -> State:
        """The state dict in the names and layout of `model`, a whole model or a backbone.

        Tensors with no counterpart in ours keep their name; they are reported as skipped or as unexpected.
        """
        raise NotImplementedError

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        """What the class outputs of the converted state dict stand for, in order; None if unknown."""
        return None


def rename(name: str, names: Names) -> str:
    """Replace the beginning of `name` by the first pattern that matches there; as it is where none does."""
    for pattern, replacement in names:
        ours, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return ours
    return name


def rename_all(state: State, names: Names) -> State:
    """The same tensors under the names that `rename` gives."""
    return {rename(name, names): tensor for name, tensor in state.items()}
