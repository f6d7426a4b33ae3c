"""Format: base class that converts the state dicts of another library's architecture to our tensor names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from chordate.errors import CheckpointError
from chordate.structures import DatasetMeta

State = dict[str, Tensor]
Names = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


class Format:
    r"""The state dicts of one architecture of another library, and their conversion to our names.

    `load_checkpoint` tries every registered format, and loads the conversion with the most tensors that fit the model.
    Example of a format in your own module, which `custom_imports` or an entry point imports:

        from chordate.registry import FORMATS
        from chordate.weights.formats.format import Format, rename_all

        @FORMATS.register_module()
        class MyLibraryResNet(Format):
            library = "mylibrary"

            def recognizes(self, state):
                return "trunk.stage1.0.conv1.weight" in state

            def convert(self, state, model):
                return rename_all(state, ((r"trunk\.stage(\d)\.", r"backbone.layer\1."), (r"trunk\.", "backbone.")))

    Args:
        contents: entries of the checkpoint besides the tensors: plain dicts, lists, strings and numbers, such as
            `{"meta": {…}, "epoch": 12}`. Since the file is untrusted, an entry may be missing or of another type.

    Attributes:
        library: name of the library in reports and messages.
        wrapper: key of the state dict in the library's files; None if a file is a bare state dict.
    """

    library: str
    wrapper: str | None = None

    def __init__(self, contents: Mapping[Any, Any] = MappingProxyType({})):
        self.contents = contents

    def recognizes(self, state: State) -> bool:
        """Whether the tensor names of a state dict are the names of this format."""
        raise NotImplementedError

    def convert(self, state: State, model: Any) -> State:
        """Convert a state dict to the names and layout of `model`, which is a whole model or a backbone.

        Tensors without a counterpart in the model keep their names; StateDictMatch lists them as skipped or unexpected.
        """
        raise NotImplementedError

    def restore(self, state: State, model: Any) -> State:
        """The inverse of `convert`: convert the state dict of `model` to the library's names and layout.

        `convert(restore(state, model), model)` returns `state`, bit for bit. A library with several architectures has
        several formats; `chordate convert --to` uses the first format that recognizes its own result and converts
        it back to `state`.

        Args:
            state: tensors, keyed by the names of `model`.
            model: a whole model or a backbone.

        Raises:
            CheckpointError: the library has no counterpart of this model, or the format only reads.
        """
        raise CheckpointError(f"{type(model).__name__} cannot be written as {self.library} ({type(self).__name__})")

    def checkpoint(self, state: State, model: Any) -> dict[str, Any]:
        """The contents of the library's checkpoint with the state dict that `restore` returned, and the facts about
        `model` that the library saves beside it, such as class names."""
        return {self.wrapper: state} if self.wrapper else dict(state)

    def checked(self, theirs: State, model: Any) -> State:
        """Return `theirs`, the result of `restore`; raises CheckpointError if the format does not recognize it."""
        return theirs if self.recognizes(theirs) else Format.restore(self, theirs, model)

    def settings(self, state: State) -> dict[str, Any]:
        """The settings that the weights were trained with, keyed by setting of the model: `{"preprocess.bgr": True}`.

        Loading warns if the model has other values. Settings that the model does not have are skipped.
        """
        return {}

    def options(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The library's own options for `settings`, which has the keys of `Format.settings`: `{"INPUT.FORMAT": "BGR"}`.

        `chordate convert --to` prints them. Settings for which the library has no option are left out.
        """
        return {}

    def guesses(self, state: State) -> str:
        """Text for the warning: which of the `settings` are guessed, and the library's options to compare them with."""
        return ""

    def notes(self, state: State) -> dict[str, str]:
        """How `convert` computes tensors that are not copies of the library's, keyed by our names.

        The report of loading lists these tensors as adapted.
        """
        return {}

    def unsupported(self, state: State) -> list[str]:
        """The library's settings that no model of Chordate has: `["decode_head.align_corners=True"]`. Loading warns."""
        return []

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        """The config of the network that has these weights: the config's name, and overrides with dotted keys.

        `chordate convert` builds the model from it, with `settings` added. None if the network is not known; the user
        then names the config.
        """
        return None

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        """The classes of the converted state dict's outputs, in order; None if unknown."""
        return None

    def has_names(self, state: State) -> bool:
        """Whether the checkpoint contains the class names of `meta`; if False, they are inferred from the class count.

        Names in the checkpoint replace the model's. Inferred names can only change the order of the model's names.
        """
        return False


def rename(name: str, names: Names) -> str:
    """Rename a tensor by the first pattern that matches the beginning of `name`; unchanged if no pattern matches."""
    for pattern, replacement in names:
        ours, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return ours
    return name


def rename_all(state: State, names: Names) -> State:
    """Rename every tensor with `rename`."""
    return {rename(name, names): tensor for name, tensor in state.items()}
