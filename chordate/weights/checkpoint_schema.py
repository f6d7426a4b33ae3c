"""The form of Chordate's own checkpoints, and the weights inside any checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chordate.errors import CheckpointError, DataError
from chordate.structures import DatasetMeta
from chordate.weights.load_report import abbreviate
from chordate.weights.reading import Contents

FORM = 2
# The parts of a checkpoint of our own and their types. `ema` are averaged weights; `config` is for people to read and
# never executed; `train` is the training state, which only `--resume` reads.
_PARTS: dict[str, tuple[type, ...]] = {
    "model": (Mapping,),
    "ema": (Mapping, type(None)),
    "meta": (Mapping,),
    "config": (str, type(None)),
    "train": (Mapping, type(None)),
}
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights
_MAX_DEPTH = 4  # of wrappers in one another


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint.

    Attributes:
        state: tensors by name; averaged ones where the checkpoint has them.
        meta: of the data set, if the checkpoint is our own.
        source: the path or URL, for messages.
    """

    state: dict[str, Tensor]
    meta: DatasetMeta | None
    source: str

    @property
    def is_own(self) -> bool:
        """Whether Chordate wrote the checkpoint."""
        return self.meta is not None


def find_weights(contents: Mapping[str, Any]) -> Weights:
    """Validate what a checkpoint holds, which may be a stranger's, and take the weights out of it.

    Args:
        contents: what `read_state` returned, or a bare state dict.

    Raises:
        CheckpointError: a checkpoint of ours in another form or with parts of wrong types, or no usable weights.
    """
    source, meta = source_of(contents), checkpoint_meta(contents)
    if meta is not None:
        weights = {**contents["model"], **(contents.get("ema") or {})}
    else:
        weights = _unwrap(contents, source)
    state = {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{source} holds no weights")
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{source}: {name} is not a dense tensor with values; save the model's state_dict()")
    return Weights(state, meta, source)


def checkpoint_meta(contents: Mapping[str, Any]) -> DatasetMeta | None:
    """The metadata of the data set that a checkpoint of ours was trained on; None for any other checkpoint.

    Raises:
        CheckpointError: a checkpoint of ours in another form or with parts of wrong types.
    """
    if "chordate" not in contents:
        return None
    source, form = source_of(contents), contents["chordate"]
    if not isinstance(form, int) or form != FORM:
        if isinstance(form, int) and form < FORM:
            raise CheckpointError(f"{source} is of form {form}, which is not read any more; train again")
        raise CheckpointError(f"{source} was written by a newer Chordate; this one reads form {FORM}, so update it")
    for part, kinds in _PARTS.items():
        if not isinstance(contents.get(part), kinds):
            raise CheckpointError(
                f"{source} is no whole Chordate checkpoint: its {part} is {type(contents.get(part)).__name__} data; "
                f"take the file as training wrote it"
            )
    try:
        return DatasetMeta.from_dict(contents["meta"], source)
    except DataError as error:
        raise CheckpointError(str(error)) from error


def source_of(contents: Mapping[str, Any]) -> str:
    """What messages call a checkpoint."""
    return contents.source if isinstance(contents, Contents) else "the state dict"


def _unwrap(contents: Mapping[Any, Any], source: str) -> dict[Any, Any]:
    """The state dict inside the dicts that training scripts wrap around it."""
    weights = dict(contents)
    for _ in range(_MAX_DEPTH):
        if any(isinstance(value, Tensor) for value in weights.values()):
            return weights
        inner = next((weights[key] for key in _WRAPPERS if isinstance(weights.get(key), Mapping)), None)
        if inner is None:
            break
        weights = dict(inner)
    keys = abbreviate([str(key) for key in weights], 5) or "nothing"
    raise CheckpointError(f"{source} holds no weights: neither tensors nor a state_dict, but {keys}")
