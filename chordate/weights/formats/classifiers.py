"""Classifiers of torchvision and timm as an ImageClassifier: their trunk is its backbone, their last layer its head."""

from collections.abc import Mapping

from torch import Tensor

# What the last linear layer, and the norm before it, are called.
_LAST = ("fc", "head.fc", "classifier.2", "classifier.1", "classifier", "head")
_NORM = ("head.norm", "classifier.0")


def as_classifier(state: Mapping[str, Tensor], trunk: str) -> dict[str, Tensor]:
    """Names of a bare network to `<trunk>…`, `head.norm.…` and `head.fc.…`.

    Where the last layer is a 1×1 convolution (timm's pre-activation ResNets) it becomes a linear layer.
    """
    last = next((name for name in _LAST if f"{name}.weight" in state), None)
    found = {}
    for name, tensor in state.items():
        part, _, suffix = name.rpartition(".")
        if part == last:
            found[f"head.fc.{suffix}"] = tensor.flatten(1) if suffix == "weight" else tensor
        elif part in _NORM:
            found[f"head.norm.{suffix}"] = tensor
        else:
            found[f"{trunk}{name}"] = tensor
    return found
