"""Converts classifiers of torchvision, timm and others to a backbone and a head and back, and finds their config."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from chordate.data.image_folder import imagenet_classes
from chordate.errors import CheckpointError
from chordate.head_contracts import HasFinalLayers
from chordate.structures import DatasetMeta
from chordate.weights.formats.backbone_variants import variant_of
from chordate.weights.formats.format import Format, State

# Possible names of the last linear layer, and of the normalization layer before it.
_LAST = ("fc", "head.fc", "classifier.2", "classifier.1", "classifier", "head", "linear")
_NORM = ("head.norm", "classifier.0")


def split_network(state: Mapping[str, Tensor], trunk: str, final: Mapping[str, str]) -> State:
    """Convert a classifier's state dict to the names of a model with a backbone and a head (`HasFinalLayers`).

    Tensor names get the prefix `trunk`, except for the last linear layer and the normalization layer before it, which
    get the names `final["linear"]` and `final["norm"]`. If the last layer is a 1×1 convolution (timm's pre-activation
    ResNets), its weight is reshaped to that of a linear layer.
    """
    last = _last(state)
    ours = {}
    for name, tensor in state.items():
        part, _, suffix = name.rpartition(".")
        if part == last:
            ours[f"{final['linear']}.{suffix}"] = tensor.flatten(1) if suffix == "weight" else tensor
        elif part in _NORM:
            ours[f"{final['norm']}.{suffix}"] = tensor
        else:
            ours[f"{trunk}{name}"] = tensor
    return ours


def join_network(state: Mapping[str, Tensor], model: nn.Module, names: Mapping[str, str]) -> State:
    """The inverse of `split_network`: the state dict of a classifier or a backbone, with a library's names of the final
    layers. The other names only lose the prefix `backbone.`.

    Args:
        state: tensors, keyed by the names of `model`.
        model: a model with a backbone and a head (`HasFinalLayers`), or a backbone.
        names: the library's names of the layers of `HasFinalLayers.final_layers`: `{"linear": "fc"}`.

    Raises:
        CheckpointError: the head has a layer that the library's network does not have.
    """
    final: dict[str, str] = {}
    for path, head in model.named_modules():
        if isinstance(head, HasFinalLayers):
            final |= {f"{path}.{layer}": role for role, layer in head.final_layers.items()}
    network = {}
    for name, tensor in state.items():
        part, _, suffix = name.rpartition(".")
        if part in final:
            if final[part] not in names:
                raise CheckpointError(f"the library's network has no layer for {name}")
            network[f"{names[final[part]]}.{suffix}"] = tensor
        else:
            network[name.removeprefix("backbone.")] = tensor
    return network


def network_meta(state: Mapping[str, Tensor]) -> DatasetMeta | None:
    """Metadata with ImageNet's class names if a classifier's last layer has 1000 outputs; else None."""
    last = _last(state)
    classes = imagenet_classes()
    imagenet = last is not None and state[f"{last}.weight"].shape[:1] == (len(classes),)
    return DatasetMeta(classes) if imagenet else None


def style_settings(state: Mapping[str, Tensor], resnet: str = "") -> dict[str, Any]:
    """The setting for ResNet v1.5, as in torchvision and timm: the stride of a bottleneck is in its 3×3 convolution.

    Empty for a ResNet without bottlenecks.

    Args:
        state: tensors by name.
        resnet: prefix of the names of the ResNet.
    """
    return {"backbone.style": "pytorch"} if f"{resnet}layer1.0.conv3.weight" in state else {}


class ClassifierFormat(Format):
    """Base class of formats of classifiers for ImageNet.

    Attributes:
        architecture: registered type of the backbone, for example "ResNet".
    """

    architecture: str

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        split = split_network(self.convert(state, None), "backbone.", {"linear": "head.linear", "norm": "head.norm"})
        prefix = "backbone."
        backbone = {name.removeprefix(prefix): x for name, x in split.items() if name.startswith(prefix)}
        variant = variant_of(backbone, self.architecture)
        if variant is None:
            return None
        outputs = len(split["head.linear.weight"])
        return f"{variant}_imagenet", {} if outputs == len(imagenet_classes()) else {"fallback_meta.classes": outputs}


def _last(state: Mapping[str, Tensor]) -> str | None:
    return next((name for name in _LAST if f"{name}.weight" in state), None)
