"""timm's state dicts in Chordate's names, where they differ; most of its ResNets have torchvision's."""

import re
from typing import Any

from torch import Tensor

State = dict[str, Tensor]

# timm's resnetv2_*: pre-activation ResNets.
_PREACT = (
    (r"^stem\.conv\.", "conv1."),
    (r"^stages\.(\d)\.blocks\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"^norm\.", "norm.0."),
)


def recognise(state: State) -> bool:
    """A pre-activation ResNet of timm's."""
    return {"stem.conv.weight", "stages.0.blocks.0.norm1.weight"} <= state.keys()


def convert(state: State, model: Any) -> State:
    """The state dict in the names of `model`; names that stand for nothing of ours stay as they are."""
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in _PREACT:
        name = re.sub(pattern, replacement, name)
    return name.replace(".downsample.conv.", ".downsample.")
