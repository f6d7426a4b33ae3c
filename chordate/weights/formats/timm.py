"""timm's state dicts in Chordate's names, one pair of functions a family of models, as in `torchvision.py`."""

from typing import Any

from chordate.weights.formats.format import Family, Format, Names, State, renamed


def is_resnet(state: State) -> bool:
    """A ResNet as torchvision has none: with a deep stem, or with squeeze-and-excitation."""
    return {"layer1.0.conv1.weight", "fc.weight"} <= state.keys() and (
        "conv1.0.weight" in state or "layer1.0.se.fc1.weight" in state
    )


def resnet(state: State, model: Any) -> State:
    """Nothing to rename: our ResNet has timm's names for what torchvision has not."""
    return state


def is_preact(state: State) -> bool:
    """A pre-activation ResNet, `resnetv2_*`."""
    return {"stem.conv.weight", "stages.0.blocks.0.norm1.weight"} <= state.keys()


_PREACT_NAMES: Names = (
    (r"stem\.conv\.", "conv1."),
    (r"stages\.(\d)\.blocks\.(\d+)\.downsample\.conv\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample."),
    (r"stages\.(\d)\.blocks\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"norm\.", "norm.0."),
)


def preact(state: State, model: Any) -> State:
    return {renamed(name, _PREACT_NAMES): tensor for name, tensor in state.items()}


def is_convnext(state: State) -> bool:
    return {"stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "stages.0.blocks.0.gamma"} <= state.keys()


_CONVNEXT_NAMES: Names = (
    (r"stages\.(\d)\.downsample\.", lambda m: f"downsample{int(m[1]) + 1}."),
    (r"stages\.(\d)\.blocks\.(\d+)\.conv_dw\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.dwconv."),
    (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.fc([12])\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.pwconv{m[3]}."),
    (r"stages\.(\d)\.blocks\.", lambda m: f"layer{int(m[1]) + 1}."),
)


def convnext(state: State, model: Any) -> State:
    return {renamed(name, _CONVNEXT_NAMES): tensor for name, tensor in state.items()}


FORMAT = Format("timm", (Family(is_resnet, resnet), Family(is_preact, preact), Family(is_convnext, convnext)))
