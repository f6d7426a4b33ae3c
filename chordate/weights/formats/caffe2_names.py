"""Caffe2's tensor names of ResNets (`res2_0_branch2a_bn_s`), which Detectron2's ImageNet weights also use."""

from __future__ import annotations

import re

import torch

from chordate.weights.formats.format import State

_LAYERS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_KINDS = {
    **dict.fromkeys(("w", "s", "gamma"), "weight"),
    **dict.fromkeys(("b", "bias", "beta"), "bias"),
    "rm": "running_mean",
    "riv": "running_var",
}
_KIND = rf"(_bn|_gn)?_({'|'.join(_KINDS)})$"
_STEM = re.compile(rf"^(?:res_)?conv1{_KIND}")
_BLOCK = re.compile(rf"^res(\d)_(\d+)_branch(1|2a|2b|2c){_KIND}")
_LINEAR = re.compile(r"^(?:fc1000|pred)_(w|b)$")


def is_caffe2(state: State) -> bool:
    """Whether a state dict has Caffe2's names of a ResNet."""
    return {"conv1_w", "res2_0_branch2a_w"} <= state.keys()


def from_caffe2(state: State, eps: float) -> State:
    """Rename a ResNet's tensors to Detectron2's names; momentum buffers are left out.

    Frozen BatchNorms have only a scale and a shift, so their running mean and variance are set to 0 and 1 - `eps`.

    Args:
        eps: epsilon of the BatchNorms.
    """
    theirs: State = {}
    for name, tensor in state.items():
        if name.endswith("_momentum"):
            continue
        stem, block, linear = _STEM.match(name), _BLOCK.match(name), _LINEAR.match(name)
        if stem:
            theirs[f"stem.conv1.{_tensor(stem[1], stem[2])}"] = tensor
        elif block:
            layer = f"res{block[1]}.{block[2]}.{_LAYERS[block[3]]}"
            theirs[f"{layer}.{_tensor(block[4], block[5])}"] = tensor
            if block[4] == "_bn":
                _add_statistics(theirs, f"{layer}.norm.", tensor, eps)
        elif linear:
            theirs[f"linear.{_KINDS[linear[1]]}"] = tensor
        else:
            theirs[name] = tensor
        if stem and stem[1] == "_bn":
            _add_statistics(theirs, "stem.conv1.norm.", tensor, eps)
    return theirs


def _tensor(norm: str | None, kind: str) -> str:
    return f"norm.{_KINDS[kind]}" if norm else _KINDS[kind]


def _add_statistics(theirs: State, norm: str, like: torch.Tensor, eps: float) -> None:
    theirs.setdefault(f"{norm}running_mean", torch.zeros_like(like))
    theirs.setdefault(f"{norm}running_var", torch.full_like(like, 1 - eps))
