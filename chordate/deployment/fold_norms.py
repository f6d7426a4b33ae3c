"""Folds BatchNorm layers into the convolutions before them: fewer passes over the feature maps in inference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chordate.model_contracts import Model
from chordate.ops.norms import FrozenBatchNorm

NORMS = (FrozenBatchNorm, nn.BatchNorm2d, nn.SyncBatchNorm, nn.BatchNorm1d, nn.BatchNorm3d)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
EXAMPLE_SIDE = 256  # maximum height and width in pixels of the blank image with which `fold_norms` runs the model


class _Recorder(TorchDispatchMode):
    """Records which norm reads the output of which convolution, and whether anything else reads it.

    Hooks record the outputs of convolutions and the inputs of norms. As a TorchDispatchMode, the recorder also sees the
    inputs of all other operators.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.producer: dict[int, nn.Module] = {}  # id of a convolution's output -> convolution
        self.outputs: list[Tensor] = []  # keeps the outputs alive, so that ids are unique
        # Convolution -> the norms that read its output, and None if another operator reads it.
        self.readers: dict[nn.Module, set[nn.Module | None]] = {}
        # Norm -> the convolutions whose outputs it reads, and None if it reads another tensor.
        self.sources: dict[nn.Module, set[nn.Module | None]] = {}
        self._norm: nn.Module | None = None
        self._hooks: list[Any] = []
        for module in model.modules():
            if module._forward_hooks or module._forward_pre_hooks:
                continue  # hooks read or change tensors that folding would change; `weight_norm` is a hook, too
            if type(module) in CONVS:
                self._hooks.append(module.register_forward_hook(self._after_conv))
            elif type(module) in NORMS and not module.training and module.running_mean is not None:
                self._hooks.append(module.register_forward_pre_hook(self._before_norm))
                self._hooks.append(module.register_forward_hook(self._after_norm))

    def _after_conv(self, conv: nn.Module, args: Any, output: Tensor) -> None:
        self.producer[id(output)] = conv
        self.outputs.append(output)

    def _before_norm(self, norm: nn.Module, args: tuple[Tensor]) -> None:
        self._norm, conv = norm, self.producer.get(id(args[0]))
        self.sources.setdefault(norm, set()).add(conv)
        if conv is not None:
            self.readers.setdefault(conv, set()).add(norm)

    def _after_norm(self, norm: nn.Module, args: Any, output: Tensor) -> None:
        self._norm = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._norm is None:
            for value in tree_leaves((args, kwargs)):
                if conv := self.producer.get(id(value)):
                    self.readers.setdefault(conv, set()).add(None)
        return func(*args, **(kwargs or {}))

    def pairs(self) -> list[tuple[Any, Any]]:
        """Remove the hooks; returns the pairs (convolution, norm) where the norm reads only the convolution's output,
        and nothing else reads this output."""
        for hook in self._hooks:
            hook.remove()
        found = []
        for conv, norms in self.readers.items():
            norm = next(iter(norms))
            if norm is not None and len(norms) == 1 and self.sources[norm] == {conv}:
                found.append((conv, norm))
        return found


@torch.no_grad()
def fold_norms(model: Model) -> Model:
    """A copy of a model, in evaluation mode, with BatchNorms folded into the convolutions before them.

    The norms are found by one prediction on a blank image, so they may be anywhere, including networks of other
    libraries. Norms that do not directly follow a convolution remain, and so do layers with hooks.
    """
    model = copy.deepcopy(model)
    model.eval()
    height, width = (min(side, EXAMPLE_SIDE) for side in model.example_size)
    batch = model.example_batch(height, width)
    recorder = _Recorder(model)
    with recorder:
        model.predict(batch)
    replaced: dict[nn.Module, nn.Module] = {}
    for conv, norm in recorder.pairs():
        scale, shift = norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, scale, shift
        )
        replaced[norm] = nn.Identity()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in replaced:
                setattr(parent, name, replaced[child])
    model.eval()
    return model
