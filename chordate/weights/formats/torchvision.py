"""Formats of torchvision's classifiers, one class per architecture."""

from typing import Any

from chordate.registry import FORMATS
from chordate.weights.formats.classifiers import ClassifierFormat, join_network, style_settings
from chordate.weights.formats.format import Names, State, rename_all


@FORMATS.register_module()
class TorchvisionResNet(ClassifierFormat):
    """A ResNet classifier for ImageNet, whose last layer is named `fc`; without squeeze-and-excitation."""

    library = "torchvision"
    architecture = "ResNet"

    def recognizes(self, state: State) -> bool:
        wanted = {"conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight"}
        return wanted <= state.keys() and "layer1.0.se.fc1.weight" not in state

    def convert(self, state: State, model: Any) -> State:
        return state  # our ResNet has torchvision's names

    def settings(self, state: State) -> dict[str, Any]:
        return style_settings(state)

    def restore(self, state: State, model: Any) -> State:
        return self.checked(join_network(state, model, {"linear": "fc"}), model)


_DENSENET_NAMES: Names = ((r"features\.(.*denselayer\d+\.(?:norm|conv))\.(?=\d\.)", r"\1"), (r"features\.", ""))


@FORMATS.register_module()
class TorchvisionDenseNet(ClassifierFormat):
    """A DenseNet classifier for ImageNet, whose last layer is named `classifier`."""

    library = "torchvision"
    architecture = "DenseNet"

    def recognizes(self, state: State) -> bool:
        return "features.denseblock1.denselayer1.norm1.weight" in state or (
            "features.denseblock1.denselayer1.norm.1.weight" in state  # the name in the published files
        )

    def convert(self, state: State, model: Any) -> State:
        return rename_all(state, _DENSENET_NAMES)

    def restore(self, state: State, model: Any) -> State:
        network = join_network(state, model, {"linear": "classifier"})
        theirs = {name if name.startswith("classifier.") else f"features.{name}": x for name, x in network.items()}
        return self.checked(theirs, model)


# The `features` of torchvision's ConvNeXt are the stem, then alternating stages and downsampling layers.
_CONVNEXT_NAMES: Names = (
    (r"features\.0\.", "stem."),
    (r"features\.([1357])\.(\d+)\.layer_scale$", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.gamma"),
    (r"features\.([1357])\.(\d+)\.block\.0\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.dwconv."),
    (r"features\.([1357])\.(\d+)\.block\.2\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.norm."),
    (r"features\.([1357])\.(\d+)\.block\.3\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.pwconv1."),
    (r"features\.([1357])\.(\d+)\.block\.5\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.pwconv2."),
    (r"features\.([246])\.", lambda m: f"downsample{int(m[1]) // 2 + 1}."),
)
_CONVNEXT_RESTORED: Names = (
    (r"stem\.", "features.0."),
    (r"layer(\d)\.(\d+)\.gamma$", lambda m: f"features.{2 * int(m[1]) - 1}.{m[2]}.layer_scale"),
    *(
        (
            rf"layer(\d)\.(\d+)\.{ours}\.",
            lambda m, theirs=theirs: f"features.{2 * int(m[1]) - 1}.{m[2]}.block.{theirs}.",
        )
        for ours, theirs in (("dwconv", 0), ("norm", 2), ("pwconv1", 3), ("pwconv2", 5))
    ),
    (r"downsample(\d)\.", lambda m: f"features.{2 * int(m[1]) - 2}."),
)


@FORMATS.register_module()
class TorchvisionConvNeXt(ClassifierFormat):
    """A ConvNeXt classifier for ImageNet, whose last layers are named `classifier.0` (norm) and `classifier.2`."""

    library = "torchvision"
    architecture = "ConvNeXt"

    def recognizes(self, state: State) -> bool:
        return {"features.0.0.weight", "features.1.0.layer_scale"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        ours = rename_all(state, _CONVNEXT_NAMES)
        return {name: tensor.flatten() if name.endswith(".gamma") else tensor for name, tensor in ours.items()}

    def restore(self, state: State, model: Any) -> State:
        network = join_network(state, model, {"linear": "classifier.2", "norm": "classifier.0"})
        theirs = rename_all(network, _CONVNEXT_RESTORED)
        scales = {name: x[:, None, None] for name, x in theirs.items() if name.endswith(".layer_scale")}
        return self.checked(theirs | scales, model)
