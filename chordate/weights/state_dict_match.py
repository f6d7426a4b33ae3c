"""Holds a state dict against a model: what fits, what can be made to fit, and what belongs elsewhere."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from chordate.contracts import Backbone
from chordate.weights.load_report import some

_COUNTER = "num_batches_tracked"  # BatchNorm's own, in some checkpoints and not in others; never of use here


@dataclass
class Fit:
    """The result of `fit`.

    Attributes:
        loaded, adapted: tensors for the model, by its names.
        misshapen: name to the shapes in the checkpoint and in the model.
        missing: tensors of the model that the checkpoint has not.
        foreign: tensors that contradict the model: a part that both have has more of them.
        elsewhere: tensors of whole parts that the model has not, such as a classifier's `fc` for a backbone.
    """

    loaded: dict[str, Tensor] = field(default_factory=dict)
    adapted: dict[str, Tensor] = field(default_factory=dict)
    misshapen: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.loaded) + len(self.adapted)

    @property
    def whole(self) -> bool:
        """Every tensor of the model is filled, and nothing speaks of another model."""
        return not (self.misshapen or self.missing or self.foreign)

    def problems(self) -> str:
        """What does not fit, in one line."""
        said = []
        if self.misshapen:
            shapes = [f"{name} {theirs} for the model's {ours}" for name, (theirs, ours) in self.misshapen.items()]
            said.append(f"other shapes: {some(shapes, 2)}")
        if self.missing:
            said.append(f"not in the checkpoint: {some(self.missing, 2)}")
        if self.foreign:
            said.append(f"not in the model: {some(self.foreign, 2)}")
        return "; ".join(said)


def fit(model: nn.Module, state: Mapping[str, Tensor]) -> Fit:
    """Compare names and shapes; nothing is loaded yet."""
    result = Fit()
    target = model.state_dict()
    stems = _stems(model)
    for name, tensor in state.items():
        if name not in target:
            if not name.endswith(_COUNTER):
                (result.elsewhere if _is_elsewhere(model, name) else result.foreign).append(name)
        elif tensor.shape == target[name].shape:
            result.loaded[name] = tensor
        elif name in stems and _differs_in_input_channels(tensor, target[name]):
            result.adapted[name] = adapt_input_channels(tensor, target[name].shape[1])
        else:
            result.misshapen[name] = (list(tensor.shape), list(target[name].shape))
    result.missing = [name for name in target if name not in state and not name.endswith(_COUNTER)]
    return result


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """A stem's weight `[O, 3, kH, kW]` for images of `channels` channels, as timm does it.

    One channel takes the sum, so that a gray image gives what it gave as RGB; more take the three in turn,
    scaled by 3 / channels so that the activations keep their size.
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with NaN or infinite values."""
    return [name for name, t in state.items() if t.is_floating_point() and not torch.isfinite(t).all()]


def _stems(model: nn.Module) -> set[str]:
    """The weight that sees the image, of every backbone in the model."""
    stems = set()
    for prefix, backbone in model.named_modules():
        if isinstance(backbone, Backbone):
            convs = (name for name, part in backbone.named_modules() if isinstance(part, nn.Conv2d))
            first = next(convs, None)
            if first is not None:
                stems.add(f"{prefix}.{first}.weight" if prefix else f"{first}.weight")
    return stems


def _differs_in_input_channels(theirs: Tensor, ours: Tensor) -> bool:
    return theirs.dim() == 4 and theirs.shape[1] == 3 and theirs[:, :1].shape == ours[:, :1].shape


def _is_elsewhere(model: nn.Module, name: str) -> bool:
    """Whether `name` is of a part that the model, or the backbone in it, does not have at all.

    `fc.weight` beside a ResNet is; the 23rd block of a stage that here has six is not: it says that the
    checkpoint is of a deeper network, even if all that is here would be filled.
    """
    module = model
    for part in name.split(".")[:-1]:
        child = module._modules.get(part)
        if child is None:
            return not part.isdigit() and (module is model or isinstance(module, Backbone))
        module = child
    return False
