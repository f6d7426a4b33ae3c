"""Recognizes a backbone by its tensors."""

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Size, Tensor

from chordate.registry import BACKBONES


def variant_of(state: Mapping[str, Tensor], architecture: str) -> str | None:
    """Name of the registered variant of an architecture whose tensors have exactly these names and shapes, or None.

    If several variants have the same tensors, such as "resnet50" and "resnet50_caffe", the shortest name is returned.

    Args:
        state: tensors, keyed by the names of our backbone; counters of BatchNorm are ignored.
        architecture: registered type of the backbone, for example "ResNet".
    """
    shapes = _shapes(state)
    depth = 2 + sum(re.search(r"\.conv\d\.weight$", name) is not None for name in shapes)  # of a ResNet
    variants = {name: BACKBONES.variants.get(name, {}) for name in BACKBONES.names()}
    # Networks of this depth come first, since building the deepest takes seconds.
    names = [name for name in variants if variants[name].get("type") == architecture]
    names.sort(key=lambda name: (variants[name].get("depth") != depth, len(name)))
    return next((name for name in names if _variant_shapes(name) == shapes), None)


@cache
def _variant_shapes(name: str) -> dict[str, Size]:
    with torch.device("meta"):
        return _shapes(BACKBONES.build(name).state_dict())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
