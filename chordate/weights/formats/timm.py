"""Formats of timm's state dicts, one class per architecture."""

from typing import Any

from chordate.registry import FORMATS
from chordate.weights.formats.classifiers import ClassifierFormat, join_network, style_settings
from chordate.weights.formats.format import Names, State, rename_all


@FORMATS.register_module()
class TimmResNet(ClassifierFormat):
    """A ResNet that torchvision does not have: with a deep stem, or with squeeze-and-excitation."""

    library = "timm"
    architecture = "ResNet"

    def recognizes(self, state: State) -> bool:
        return {"layer1.0.conv1.weight", "fc.weight"} <= state.keys() and (
            "conv1.0.weight" in state or "layer1.0.se.fc1.weight" in state
        )

    def convert(self, state: State, model: Any) -> State:
        return state  # our ResNet has timm's names for these layers

    def settings(self, state: State) -> dict[str, Any]:
        return style_settings(state)

    def restore(self, state: State, model: Any) -> State:
        return self.checked(join_network(state, model, {"linear": "fc"}), model)


_PREACT_NAMES: Names = (
    (r"stem\.conv\.", "conv1."),
    (r"stages\.(\d)\.blocks\.(\d+)\.downsample\.conv\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample."),
    (r"stages\.(\d)\.blocks\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"norm\.", "norm.0."),
)
_PREACT_RESTORED: Names = (
    (r"conv1\.", "stem.conv."),
    (r"layer(\d)\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.downsample.conv."),
    (r"layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"norm\.0\.", "norm."),
)


@FORMATS.register_module()
class TimmPreActResNet(ClassifierFormat):
    """A pre-activation ResNet, named `resnetv2_*` in timm."""

    library = "timm"
    architecture = "PreActResNet"

    def recognizes(self, state: State) -> bool:
        return {"stem.conv.weight", "stages.0.blocks.0.norm1.weight"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        return rename_all(state, _PREACT_NAMES)

    def restore(self, state: State, model: Any) -> State:
        theirs = rename_all(join_network(state, model, {"linear": "head.fc"}), _PREACT_RESTORED)
        if "head.fc.weight" in theirs:  # timm's last layer is a 1×1 convolution
            theirs["head.fc.weight"] = theirs["head.fc.weight"][:, :, None, None]
        return self.checked(theirs, model)


_CONVNEXT_NAMES: Names = (
    (r"stages\.(\d)\.downsample\.", lambda m: f"downsample{int(m[1]) + 1}."),
    (r"stages\.(\d)\.blocks\.(\d+)\.conv_dw\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.dwconv."),
    (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.fc([12])\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.pwconv{m[3]}."),
    (r"stages\.(\d)\.blocks\.", lambda m: f"layer{int(m[1]) + 1}."),
)
_CONVNEXT_RESTORED: Names = (
    (r"downsample(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
    (r"layer(\d)\.(\d+)\.dwconv\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.conv_dw."),
    (r"layer(\d)\.(\d+)\.pwconv([12])\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.mlp.fc{m[3]}."),
    (r"layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
)


@FORMATS.register_module()
class TimmConvNeXt(ClassifierFormat):
    """A ConvNeXt classifier for ImageNet, whose last layers are named `head.norm` and `head.fc`."""

    library = "timm"
    architecture = "ConvNeXt"

    def recognizes(self, state: State) -> bool:
        return {"stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "stages.0.blocks.0.gamma"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        return rename_all(state, _CONVNEXT_NAMES)

    def restore(self, state: State, model: Any) -> State:
        network = join_network(state, model, {"linear": "head.fc", "norm": "head.norm"})
        return self.checked(rename_all(network, _CONVNEXT_RESTORED), model)
