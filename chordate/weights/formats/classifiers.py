"""Splits whole networks of torchvision, timm and others into backbone and final layers (`HasFinalLayers`)."""

from collections.abc import Mapping

from torch import Tensor

from chordate.data.image_folder import imagenet_classes
from chordate.structures import DatasetMeta
from chordate.weights.formats.format import State

# Possible names of the last linear layer, and of the normalization layer before it.
_LAST = ("fc", "head.fc", "classifier.2", "classifier.1", "classifier", "head", "linear")
_NORM = ("head.norm", "classifier.0")


def split_network(state: Mapping[str, Tensor], trunk: str, final: Mapping[str, str]) -> State:
    """Prefix a network's tensor names with `trunk`; rename its last layers as `final` says (keys "linear" and "norm").

    If the last layer is a 1×1 convolution (timm's pre-activation ResNets), it becomes a linear layer.
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


def network_meta(state: Mapping[str, Tensor]) -> DatasetMeta | None:
    """ImageNet's class names if a network's last layer has 1000 outputs; else None."""
    last = _last(state)
    classes = imagenet_classes()
    imagenet = last is not None and state[f"{last}.weight"].shape[:1] == (len(classes),)
    return DatasetMeta(classes) if imagenet else None


def _last(state: Mapping[str, Tensor]) -> str | None:
    return next((name for name in _LAST if f"{name}.weight" in state), None)
