"""Layer-wise learning-rate decay: early layers of a pretrained backbone have the smallest learning rates.

Source: BEiT (Bao et al. 2022, appendix). timm's `param_groups_layer_decay` needs name patterns per architecture
(`group_matcher`); without such patterns it groups every twelve tensors. This module counts the blocks of any backbone;
for timm's models, the learning-rate scales equal timm's (tested).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from chordate.contracts import Backbone
from chordate.errors import ConfigError

STEM, AFTER_LAST_BLOCK = ("", 0), ("", 1)


class ParamGroup(NamedTuple):
    """Names of parameters that share a learning rate.

    `block` is a pair: the module path of a sequence of blocks, and the index of the block in it. It is None for
    parameters outside blocks.
    """

    parameters: list[str]
    block: tuple[str, int] | None


def layer_scales(model: nn.Module, decay: float, blocks: int = 1) -> dict[str, float]:
    """Learning-rate scales for the parameters of the model's backbone, keyed by parameter name.

    Layer 0 is the stem: everything before the first block. Each further layer consists of `blocks` consecutive blocks
    of a stage; modules between two stages belong to the block after them. The scale is 1 after the last block and
    outside the backbone; each layer's scale is `decay` times the scale of the next layer.

    Args:
        model: a model with a `backbone`.
        decay: ratio of the scales of successive layers, usually below 1.
        blocks: number of blocks per layer: 1 in BEiT and timm, 3 in ConvNeXt's recipes.

    Raises:
        ConfigError: the model has no backbone, or the backbone has no sequence of blocks.
    """
    backbone = model._modules.get("backbone")
    groups = list(_param_groups(backbone, "backbone")) if backbone is not None else []
    first = next((number for number, group in enumerate(groups) if group.block), None)
    if first is None:
        what = (backbone.name if isinstance(backbone, Backbone) else "") or type(model).__name__
        raise ConfigError(
            f"optimizer.layer_decay: {what} has no sequence of blocks to count as layers; remove this setting"
        )
    layers, layer = [], AFTER_LAST_BLOCK
    for group in reversed(groups):
        if group.block is not None:
            layer = (group.block[0], group.block[1] // blocks)
        layers.append(layer)
    layers = [STEM] * first + layers[::-1][first:]
    order = list(dict.fromkeys([*layers, AFTER_LAST_BLOCK]))
    scales = {layer: decay ** (len(order) - 1 - number) for number, layer in enumerate(order)}
    return {name: scales[layer] for group, layer in zip(groups, layers) for name in group.parameters}


def _param_groups(module: nn.Module, prefix: str) -> Iterator[ParamGroup]:
    """Yield the parameter names of a module in groups, in order; each block of a sequence is one group."""
    yield ParamGroup([f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)], None)
    for name, child in module.named_children():
        full = f"{prefix}.{name}"
        if _is_sequence(child):
            for index, (number, block) in enumerate(child.named_children()):
                yield ParamGroup([key for key, _ in block.named_parameters(f"{full}.{number}")], (full, index))
        elif _has_sequence(child):
            yield from _param_groups(child, full)
        else:
            yield ParamGroup([key for key, _ in child.named_parameters(full)], None)


def _is_sequence(module: nn.Module) -> bool:
    """Whether a module is a sequence of blocks: a Sequential, a ModuleList or a module with numbered children. Each
    child must be a block: a module with children, but without a sequence of blocks inside."""
    members = dict(module.named_children())
    in_sequence = isinstance(module, nn.Sequential | nn.ModuleList) or all(name.isdigit() for name in members)
    blocks = all(any(True for _ in member.children()) for member in members.values())
    return bool(members) and in_sequence and blocks and not any(map(_has_sequence, members.values()))


def _has_sequence(module: nn.Module) -> bool:
    return any(map(_is_sequence, module.modules()))
