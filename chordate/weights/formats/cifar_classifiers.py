"""Formats of ResNets for CIFAR (He et al. 2016, section 4.2), one class per repository that published weights."""

from typing import Any

from torch import nn

from chordate.data.fallback_meta import CIFAR10_CLASSES
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats.classifiers import join_network
from chordate.weights.formats.format import Format, Names, State, rename_all

_IMAGENET = {"preprocess.mean": (123.675, 116.28, 103.53), "preprocess.std": (58.395, 57.12, 57.375)}
_CIFAR = {"preprocess.mean": (125.3, 123.0, 113.9), "preprocess.std": (63.0, 62.1, 66.7)}
_HALF = {"preprocess.mean": (127.5, 127.5, 127.5), "preprocess.std": (127.5, 127.5, 127.5)}
_STEM = (16, 3, 3, 3)  # shape of the first convolution's weight


class CifarFormat(Format):
    """Base class of the formats: a ResNet of three stages, whose names differ between the repositories.

    Attributes:
        names: patterns that replace the repository's names by ours.
        theirs: the inverse of `names`.
        stem, final: the repository's names of the first convolution and of the last linear layer.
    """

    names: Names = ()
    theirs: Names = ()
    stem, final = "conv1", "fc"

    def recognizes(self, state: State) -> bool:
        stem = state.get(f"{self.stem}.weight")
        return stem is not None and stem.shape == _STEM and f"{self.final}.weight" in state

    def convert(self, state: State, model: Any) -> State:
        return rename_all(state, self.names)

    def restore(self, state: State, model: Any) -> State:
        network = join_network(state, model, {"linear": "fc"})
        if not CifarFormat.recognizes(CifarFormat(), network) or "layer4.0.conv1.weight" in network:
            return super().restore(state, model)
        return rename_all(network, self.theirs)

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        is_cifar10 = len(state[f"{self.final}.weight"]) == len(CIFAR10_CLASSES)
        return DatasetMeta(CIFAR10_CLASSES) if is_cifar10 else None


@FORMATS.register_module()
class AkamasterCifarResNet(CifarFormat):
    """github.com/akamaster/pytorch_resnet_cifar10. Shortcuts of option A pad half of the zero channels before the
    input's channels, half after them."""

    library = "pytorch_resnet_cifar10"
    names: Names = ((r"(layer\d\.\d+)\.shortcut\.", r"\1.downsample."), (r"linear\.", "fc."))
    theirs: Names = ((r"(layer\d\.\d+)\.downsample\.", r"\1.shortcut."), (r"fc\.", "linear."))
    final = "linear"

    def settings(self, state: State) -> dict[str, Any]:
        projects = "layer2.0.shortcut.0.weight" in state
        return {"backbone.shortcut": "B" if projects else "A-centered", **_IMAGENET}


@FORMATS.register_module()
class ProjectionCifarResNet(CifarFormat):
    """Intel's distiller and github.com/chenyaofo/pytorch-cifar-models: projection shortcuts, and torchvision's names.

    distiller's checkpoints have the name of the network, such as "resnet20_cifar", and need mean and std 0.5.
    """

    library = "distiller"

    def recognizes(self, state: State) -> bool:
        return super().recognizes(state) and "layer2.0.downsample.0.weight" in state

    def settings(self, state: State) -> dict[str, Any]:
        is_distiller = str(self.contents.get("arch")).endswith("_cifar")
        return {"backbone.shortcut": "B", **(_HALF if is_distiller else {})}


@FORMATS.register_module()
class ResNeXtDenseNetCifarResNet(CifarFormat):
    """github.com/D-X-Y/ResNeXt-DenseNet. Like ours, its shortcuts of option A pad all zero channels after the input's
    channels."""

    library = "ResNeXt-DenseNet"
    names: Names = (
        (r"conv_1_3x3\.", "conv1."),
        (r"bn_1\.", "bn1."),
        (r"stage_(\d\.\d+)\.(conv|bn)_([ab])\.", lambda m: f"layer{m[1]}.{m[2]}{'ab'.index(m[3]) + 1}."),
        (r"classifier\.", "fc."),
    )
    theirs: Names = (
        (r"conv1\.", "conv_1_3x3."),
        (r"bn1\.", "bn_1."),
        (r"layer(\d\.\d+)\.(conv|bn)([12])\.", lambda m: f"stage_{m[1]}.{m[2]}_{'ab'[int(m[3]) - 1]}."),
        (r"fc\.", "classifier."),
    )
    stem, final = "conv_1_3x3", "classifier"

    def settings(self, state: State) -> dict[str, Any]:
        return {"backbone.shortcut": "A", **_CIFAR}
