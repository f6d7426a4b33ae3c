"""Classifiers of torchvision and timm as an ImageClassifier: the trunk is its backbone, the last layer its head."""

from collections.abc import Mapping

import torchvision
from torch import Tensor

from chordate.structures import DatasetMeta
from chordate.weights.formats.format import State

# Names of the last linear layer, and of the norm before it.
_LAST = ("fc", "head.fc", "classifier.2", "classifier.1", "classifier", "head")
_NORM = ("head.norm", "classifier.0")
_IMAGENET: tuple[str, ...] = tuple(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def as_classifier(state: Mapping[str, Tensor], trunk: str) -> State:
    """Rename a bare network's tensors to `<trunk>…`, `head.norm.…` and `head.fc.…`.

    Where the last layer is a 1×1 convolution (timm's pre-activation ResNets) it becomes a linear layer.
    """
    last = _last(state)
    ours = {}
    for name, tensor in state.items():
        part, _, suffix = name.rpartition(".")
        if part == last:
            ours[f"head.fc.{suffix}"] = tensor.flatten(1) if suffix == "weight" else tensor
        elif part in _NORM:
            ours[f"head.norm.{suffix}"] = tensor
        else:
            ours[f"{trunk}{name}"] = tensor
    return ours


def classifier_meta(state: Mapping[str, Tensor]) -> DatasetMeta | None:
    """ImageNet's class names where a bare network's last layer has 1000 outputs; else None."""
    last = _last(state)
    imagenet = last is not None and state[f"{last}.weight"].shape[:1] == (len(_IMAGENET),)
    return DatasetMeta(_IMAGENET) if imagenet else None


def _last(state: Mapping[str, Tensor]) -> str | None:
    return next((name for name in _LAST if f"{name}.weight" in state), None)
