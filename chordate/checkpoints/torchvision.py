"""Torchvision's state dicts in Chordate's names, one pair of functions a family of models."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

State = dict[str, Tensor]


class Family(NamedTuple):
    """How to know a family's state dict by its names, and how to turn it into one for `model`."""

    recognise: Callable[[State], bool]
    convert: Callable[[State, Any], State]


def is_resnet(state: State) -> bool:
    """An ImageNet classifier: a ResNet with its `fc`."""
    return {"conv1.weight", "layer1.0.conv1.weight", "fc.weight"} <= state.keys()


def resnet(state: State, model: Any) -> State:
    """Nothing to do: our ResNet has torchvision's names. `fc` stays over for whoever has a use for it."""
    return state


FAMILIES = {
    "ResNet": Family(is_resnet, resnet),
}


def recognise(state: State) -> bool:
    return any(family.recognise(state) for family in FAMILIES.values())


def convert(state: State, model: Any) -> State:
    """The state dict in the names of `model`; names that stand for nothing of ours stay as they are."""
    family = next(family for family in FAMILIES.values() if family.recognise(state))
    return family.convert(state, model)
