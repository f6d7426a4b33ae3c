"""Finds the state dict in a checkpoint of any library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from chordate.errors import CheckpointError
from chordate.structures import DatasetMeta
from chordate.weights.checkpoint_schema import checkpoint_meta, source_of
from chordate.weights.load_report import abbreviate
from chordate.weights.plain_contents import is_dense

# Keys under which training scripts save the weights. The first key with weights is used, so EMA weights are
# preferred: timm's `state_dict_ema` and torchvision's `model_ema`. MMEngine's `ema_state_dict` has the weights without
# averaging, since its EMAHook swaps the two state dicts before they are saved.
_WRAPPERS = (
    *("state_dict_ema", "model_ema", "model_ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state"),
    *("model", "module", "net", "network", "weights", "params", "ema_state_dict", "blobs", "teacher", "student"),
)
_MAX_WRAPPERS = 4  # limit on nested wrappers: an untrusted file may nest without end


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint.

    Attributes:
        state: tensors keyed by name; the EMA weights if the checkpoint has them.
        meta: metadata of the dataset, if the checkpoint is Chordate's own.
        source: the path or URL, for messages.
        contents: entries of another library's checkpoint besides the weights, see `Format`.
    """

    state: dict[str, Tensor]
    meta: DatasetMeta | None
    source: str
    contents: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether Chordate wrote the checkpoint."""
        return self.meta is not None


def find_weights(contents: Mapping[str, Any]) -> Weights:
    """Validate the contents of a checkpoint, which may be untrusted, and return its weights.

    Args:
        contents: from `read_state`, or a bare state dict.

    Raises:
        CheckpointError: the contents have no usable weights, or are a Chordate checkpoint with another format version
            or with values of wrong types.
    """
    source, meta = source_of(contents), checkpoint_meta(contents)
    beside: dict[Any, Any] = {}
    if meta is not None:
        weights = {**contents["model"], **(contents.get("ema") or {})}
    else:
        found = _unwrap(contents)
        if found is None:
            keys = abbreviate([str(key) for key in contents], 5) or "none"
            raise CheckpointError(f"{source} has no weights: expected tensors or a state_dict, got keys: {keys}")
        weights, beside = found
    state = {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{source} has no weights")
    for name, tensor in state.items():
        if not is_dense(tensor):
            raise CheckpointError(
                f"{source}: {name} must be a dense, unquantized tensor of numbers that is not on the meta device; save "
                f"the state_dict() of the original model"
            )
    return Weights(state, meta, source, beside)


def _unwrap(contents: Mapping[Any, Any], wrappers: int = _MAX_WRAPPERS) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
    """Return the state dict from within the nested dicts in which training scripts save it, and the dicts' other
    entries; None if there are no weights.

    Nested dicts are searched first, since a wrapper may also contain tensors that are not weights, such as `best_acc1`
    or an EMA's `updates`.
    """
    for key in _WRAPPERS if wrappers else ():
        inner = contents.get(key)
        found = _unwrap(inner, wrappers - 1) if isinstance(inner, Mapping) else None
        if found is not None:
            weights, beside = found
            return weights, {**{name: value for name, value in contents.items() if name != key}, **beside}
    has_weights = any(isinstance(value, Tensor) and value.dim() > 0 for value in contents.values())
    return (dict(contents), {}) if has_weights else None
