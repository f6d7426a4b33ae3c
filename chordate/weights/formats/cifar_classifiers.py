"""Formats of ResNets for CIFAR (He et al. 2016, section 4.2), one class per repository that published weights."""

import re
from typing import Any

from torch import nn

from chordate.data.fallback_meta import CIFAR10_CLASSES
from chordate.registry import BACKBONES, FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats.classifiers import join_network
from chordate.weights.formats.format import Format, Names, State, rename_all

_IMAGENET = {"preprocess.mean": (123.675, 116.28, 103.53), "preprocess.std": (58.395, 57.12, 57.375)}
_CIFAR = {"preprocess.mean": (125.3, 123.0, 113.9), "preprocess.std": (63.0, 62.1, 66.7)}
_HALF = {"preprocess.mean": (127.5, 127.5, 127.5), "preprocess.std": (127.5, 127.5, 127.5)}
# The mean and std in chenyaofo's logs (logs/cifar10/resnet20/default.log, logs/cifar100/…), times 255.
_CHENYAOFO = {
    10: {"preprocess.mean": (125.307, 122.961, 113.8575), "preprocess.std": (51.5865, 50.847, 51.255)},
    100: {"preprocess.mean": (129.285, 124.0575, 112.4295), "preprocess.std": (68.1615, 65.382, 70.4055)},
}
_STEM = (16, 3, 3, 3)  # shape of the first convolution's weight


class CifarFormat(Format):
    """Base class of the formats: a ResNet of three stages, whose tensor names differ between the repositories.

    Attributes:
        names: patterns of the repository's names, and the replacements that give our names; see `rename`.
        theirs: the inverse of `names`.
        stem, final: the repository's names of the first convolution and of the last linear layer.
        config_suffix: end of the name of the packaged config that has the repository's settings.
    """

    names: Names = ()
    theirs: Names = ()
    stem, final = "conv1", "fc"
    config_suffix = ""

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
        return DatasetMeta(CIFAR10_CLASSES) if self.outputs(state) == len(CIFAR10_CLASSES) else None

    def outputs(self, state: State) -> int:
        """The number of classes."""
        return len(state[f"{self.final}.weight"])

    def depth(self, state: State) -> int:
        """The number of layers: the convolutions of the blocks, the first convolution and the last layer."""
        names = self.convert(state, None)
        return 2 + sum(bool(re.fullmatch(r"layer\d\.\d+\.conv[12]\.weight", name)) for name in names)

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        depth, outputs = self.depth(state), self.outputs(state)
        if f"resnet{depth}_cifar" not in BACKBONES.names():
            return None
        overrides = {} if outputs == len(CIFAR10_CLASSES) else {"fallback_meta.classes": outputs}
        is_cifar100 = outputs == 100 and not self.config_suffix
        return f"resnet{depth}_{'cifar100' if is_cifar100 else f'cifar10{self.config_suffix}'}", overrides


@FORMATS.register_module()
class AkamasterCifarResNet(CifarFormat):
    """github.com/akamaster/pytorch_resnet_cifar10. Option-A shortcuts put half of the zero channels before the
    input's channels, and half after them."""

    library = "pytorch_resnet_cifar10"
    names: Names = ((r"(layer\d\.\d+)\.shortcut\.", r"\1.downsample."), (r"linear\.", "fc."))
    theirs: Names = ((r"(layer\d\.\d+)\.downsample\.", r"\1.shortcut."), (r"fc\.", "linear."))
    final = "linear"
    config_suffix = "-akamaster"

    def settings(self, state: State) -> dict[str, Any]:
        projects = "layer2.0.shortcut.0.weight" in state
        return {"backbone.shortcut": "B" if projects else "A-centered", **_IMAGENET}


class ProjectionCifarResNet(CifarFormat):
    """Base class of the formats with projection shortcuts and torchvision's names."""

    def recognizes(self, state: State) -> bool:
        return super().recognizes(state) and "layer2.0.downsample.0.weight" in state


@FORMATS.register_module()
class ChenyaofoCifarResNet(ProjectionCifarResNet):
    """github.com/chenyaofo/pytorch-cifar-models, whose files are bare state dicts."""

    library = "pytorch-cifar-models"

    def recognizes(self, state: State) -> bool:
        return super().recognizes(state) and "arch" not in self.contents

    def settings(self, state: State) -> dict[str, Any]:
        return {"backbone.shortcut": "B", **_CHENYAOFO.get(self.outputs(state), {})}


@FORMATS.register_module()
class DistillerCifarResNet(ProjectionCifarResNet):
    """Intel's distiller, whose checkpoints contain the name of the network: `{"arch": "resnet20_cifar"}`."""

    library = "distiller"
    config_suffix = "-distiller"

    def recognizes(self, state: State) -> bool:
        return super().recognizes(state) and str(self.contents.get("arch")).endswith("_cifar")

    def settings(self, state: State) -> dict[str, Any]:
        return {"backbone.shortcut": "B", **_HALF}

    def checkpoint(self, state: State, model: Any) -> dict[str, Any]:
        return {"arch": f"resnet{self.depth(state)}_cifar", "state_dict": state}


@FORMATS.register_module()
class ResNeXtDenseNetCifarResNet(CifarFormat):
    """github.com/D-X-Y/ResNeXt-DenseNet. Its option-A shortcuts, like ours, put all zero channels after the input's
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
