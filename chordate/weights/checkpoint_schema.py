"""The schema of Chordate's own checkpoints. Files may be untrusted or damaged, so they are validated when opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from chordate.errors import CheckpointError, DataError
from chordate.structures import DatasetMeta
from chordate.weights.plain_contents import is_dense
from chordate.weights.training_schema import check_training_state

FORM = 2
# The keys of our own checkpoints, and the types of their values. `ema` has the EMA weights; `config` is text for
# reference and never executed; `train` is a TrainingStateSchema.
_PARTS: dict[str, tuple[type, ...]] = {
    "model": (Mapping,),
    "ema": (Mapping, type(None)),
    "meta": (Mapping,),
    "config": (str, type(None)),
    "train": (Mapping, type(None)),
}


class Contents(dict[str, Any]):
    """The contents of a checkpoint, validated once, when it is opened.

    Args:
        values: the contents.
        source: the path or URL, for messages.

    Attributes:
        meta: metadata of the dataset that one of our checkpoints was trained on; None for checkpoints of other
            libraries, which have no schema.

    Raises:
        CheckpointError: the checkpoint is our own, but has another format version, or a value does not fit the schema.
    """

    def __init__(self, values: dict[str, Any], source: str):
        super().__init__(values)
        self.source = source
        self.meta = _validate(values, source)


def source_of(contents: Mapping[str, Any]) -> str:
    """The path or URL of a checkpoint, for messages."""
    return contents.source if isinstance(contents, Contents) else "the state dict"


def checkpoint_meta(contents: Mapping[str, Any]) -> DatasetMeta | None:
    """The metadata of the dataset that one of our checkpoints was trained on; None for checkpoints of other
    libraries.

    Raises:
        CheckpointError: `contents` is a plain dict (not a Contents, which is already validated), and is invalid.
    """
    return contents.meta if isinstance(contents, Contents) else _validate(contents, source_of(contents))


def _validate(contents: Mapping[str, Any], source: str) -> DatasetMeta | None:
    if "chordate" not in contents:
        return None
    form = contents["chordate"]
    if type(form) is not int:
        raise CheckpointError(
            f"{source} is not a complete Chordate checkpoint: its format version is {form!r:.40}, not {FORM}"
        )
    if form < FORM:
        raise CheckpointError(f"{source} has format {form}, which is no longer supported; train again")
    if form > FORM:
        raise CheckpointError(f"{source} is from a newer Chordate (this version reads format {FORM}); update Chordate")
    for part, kinds in _PARTS.items():
        if not isinstance(contents.get(part), kinds):
            raise _incomplete(source, f"{part} has the type {type(contents.get(part)).__name__}")
    _check_names("", contents, {"chordate", *_PARTS}, source)
    _check_names("meta.", contents["meta"], {field.name for field in fields(DatasetMeta)}, source)
    for part in ("model", "ema"):
        _check_weights(part, contents.get(part) or {}, source)
    if contents.get("ema"):
        shapes = [
            {name: getattr(value, "shape", None) for name, value in contents[p].items()} for p in ("model", "ema")
        ]
        for name in shapes[0] | shapes[1]:
            if shapes[0].get(name) != shapes[1].get(name):
                raise _incomplete(source, f"ema and model differ in the presence or shape of {name!r}")
    if contents.get("train") is not None:
        check_training_state(contents["train"], source)
    try:
        return DatasetMeta.from_dict(contents["meta"], source)
    except DataError as error:
        raise CheckpointError(str(error)) from error


def _check_weights(part: str, weights: Mapping[Any, Any], source: str) -> None:
    """Check that `model` or `ema` has only dense tensors with finite values."""
    for name, value in weights.items():
        if str(name).endswith("_extra_state"):  # the module's `get_extra_state` may return any object
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _incomplete(source, f"{part}[{name!r}] must be a tensor, but has the type {type(value).__name__}")
        if not is_dense(value):
            raise _incomplete(source, f"{part}[{name!r}] is not a dense tensor of numbers")
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{source}: {part}[{name!r}] has NaN or infinite values; use an older checkpoint")


def _check_names(prefix: str, values: Mapping[Any, Any], known: set[str], source: str) -> None:
    unknown = [name for name in values if name not in known]
    if unknown:
        raise _incomplete(source, f"{prefix}{unknown[0]} is not in the schema")


def _incomplete(source: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is not a complete Chordate checkpoint: its {problem}; use the file that training wrote"
    )
