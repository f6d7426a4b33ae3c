"""`match`: finds which tensors of a state dict fit a model, can be adapted to it, or do not belong to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from chordate.contracts import Backbone
from chordate.weights.class_rows import RowMatcher
from chordate.weights.load_report import abbreviate

_COUNTER = "num_batches_tracked"  # BatchNorm's counter, used only with momentum=None; some checkpoints lack it


@dataclass
class StateDictMatch:
    """The result of `match`.

    Attributes:
        loaded, adapted: tensors for the model, keyed by the model's names.
        mismatched: mapping from name to the shapes in the checkpoint and in the model, as text; with the data types if
            only the model's weights are floating-point numbers. Equal shapes without data types mean that no class name
            matches.
        missing: tensors of the model that the checkpoint does not have.
        unexpected: tensors that the model lacks, although it has the parts to which they belong, so the checkpoint
            contradicts the model.
        skipped: tensors of parts that the model does not have, such as a classifier's `fc` for a backbone.
        notes: mapping from the name of an adapted tensor to a description of the change.
    """

    loaded: dict[str, Tensor] = field(default_factory=dict)
    adapted: dict[str, Tensor] = field(default_factory=dict)
    mismatched: dict[str, tuple[str, str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.loaded) + len(self.adapted)

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the model is loaded or adapted, and no tensor of the checkpoint is unexpected."""
        return not (self.mismatched or self.missing or self.unexpected)

    def problems(self) -> str:
        """Describe the mismatched, missing and unexpected tensors in one line; empty if `is_complete`."""
        problems = []
        if self.mismatched:
            tensors = [f"{name} {theirs} for the model's {ours}" for name, (theirs, ours) in self.mismatched.items()]
            problems.append(f"mismatched: {abbreviate(tensors, 2)}")
        if self.missing:
            problems.append(f"not in the checkpoint: {abbreviate(self.missing, 2)}")
        if self.unexpected:
            problems.append(f"not in the model: {abbreviate(self.unexpected, 2)}")
        return "; ".join(problems)


def match(model: nn.Module, state: Mapping[str, Tensor], rows: RowMatcher | None = None) -> StateDictMatch:
    """Compare the names and shapes of a state dict with those of a model, without loading it. Integers, booleans and
    complex numbers do not fit floating-point weights.

    Args:
        model: a whole model or a backbone.
        state: tensors, keyed by the model's names.
        rows: matches per-class weights by class name if the checkpoint's classes differ from the model's; None compares
            only shapes.
    """
    result = StateDictMatch()
    target = model.state_dict()
    stems = _stems(model)
    for name, tensor in state.items():
        if name not in target:
            if not name.endswith(_COUNTER):
                (result.skipped if _is_of_absent_part(model, name) else result.unexpected).append(name)
        elif target[name].is_floating_point() and not tensor.is_floating_point():
            result.mismatched[name] = (_typed(tensor), _typed(target[name]))
        elif tensor.shape == target[name].shape and not (rows and rows.is_reordered(name)):
            result.loaded[name] = tensor
        elif rows and (kept := rows.adapt(name, tensor, target[name])):
            result.adapted[name], result.notes[name] = kept.tensor, kept.note
        elif name in stems and _differs_in_input_channels(tensor, target[name]):
            channels = target[name].shape[1]
            result.adapted[name] = adapt_input_channels(tensor, channels)
            result.notes[name] = f"from 3 input channels to {channels}"
        else:
            result.mismatched[name] = (str(list(tensor.shape)), str(list(target[name].shape)))
    result.missing = [name for name in target if name not in state and not name.endswith(_COUNTER)]
    return result


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt a stem's weight `[O, 3, kH, kW]` to images of `channels` channels, as timm does.

    For one channel, the weights are summed, so that the output for a gray image equals the output for three equal
    channels. Otherwise, the weights of the 3 channels are repeated cyclically, and scaled by 3 / channels to keep the
    scale of the activations. Returns `[O, channels, kH, kW]`.
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with NaN or infinite values. Synchronizes with the device once."""
    tensors = ((name, t) for name, t in state.items() if isinstance(t, Tensor))  # get_extra_state may return any type
    named = [(name, t) for name, t in tensors if t.is_floating_point() and t.numel()]
    finite = torch.stack([torch.isfinite(t).all() for _, t in named]).tolist() if named else []
    return [name for (name, _), is_finite in zip(named, finite) if not is_finite]


def find_backbones(model: nn.Module) -> Iterator[tuple[str, Backbone]]:
    """Yield the module path and the module of every backbone in the model; the path is "" for the model itself."""
    for path, module in model.named_modules():
        if isinstance(module, Backbone):
            yield path, module


def _stems(model: nn.Module) -> set[str]:
    """Names of the stem weights: the weights of the first convolution of every backbone in the model."""
    stems = set()
    for path, backbone in find_backbones(model):
        first = next((name for name, part in backbone.named_modules() if isinstance(part, nn.Conv2d)), None)
        if first is not None:
            stems.add(f"{path}.{first}.weight" if path else f"{first}.weight")
    return stems


def _differs_in_input_channels(theirs: Tensor, ours: Tensor) -> bool:
    return theirs.dim() == 4 and theirs.shape[1] == 3 and theirs[:, :1].shape == ours[:, :1].shape


def _typed(tensor: Tensor) -> str:
    """The data type and shape of a tensor: `int8 [64, 3, 7, 7]`."""
    return f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")


def _is_of_absent_part(model: nn.Module, name: str) -> bool:
    """Whether `name` belongs to a part that the model, or its backbone, does not have at all.

    This holds for `fc.weight` of a ResNet backbone, but not for a weight of the 23rd block if the model's stage has six
    blocks: such a weight shows that the checkpoint is from a deeper network, even if every tensor of the model could be
    loaded.
    """
    module = model
    for part in name.split(".")[:-1]:
        child = module._modules.get(part)
        if child is None:
            return not part.isdigit() and (module is model or isinstance(module, Backbone))
        module = child
    return False
