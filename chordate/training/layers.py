"""Layer-wise learning rates: the nearer a layer is to the image, the less it learns (BEiT: Bao et al. 2022, appendix).

What comes early in a pretrained network is of use for any pictures; fine-tuning should change it least.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from chordate.errors import ConfigError

BEHIND = ("behind the last block", 0)
STEM = ("before the first block", 0)


class Piece(NamedTuple):
    """Part of a backbone: the names of its parameters, and its place in a row of blocks (row, index), if in one."""

    parameters: list[str]
    place: tuple[str, int] | None


def layer_scales(model: nn.Module, decay: float, blocks: int = 1) -> dict[str, float]:
    """What the learning rate of each parameter in the model's backbone is multiplied by, by the parameter's name.

    Layer 0 is what comes before the first block, the stem; then every block of every stage is a layer, or so many
    `blocks` of a stage together; what stands between two stages belongs to the block behind it. Behind the last block,
    and everywhere outside the backbone, the rate is whole; each layer further down has `decay` times the next one's.

    Args:
        model: has a `backbone`.
        decay: above 0, at most 1.
        blocks: neighbours of one stage that make a layer: 1 in BEiT and timm, 3 in ConvNeXt's recipes.

    Raises:
        ConfigError: there is no backbone, or no row of blocks in it.
    """
    backbone = getattr(model, "backbone", None)
    pieces = list(_pieces(backbone, "backbone")) if isinstance(backbone, nn.Module) else []
    first = next((number for number, piece in enumerate(pieces) if piece.place), None)
    if first is None:
        what = getattr(backbone, "name", type(model).__name__)
        raise ConfigError(f"optimizer.layer_decay: {what} has no row of blocks to count as layers; leave it out")
    layers, layer = [], BEHIND
    for piece in reversed(pieces):
        if piece.place is not None:
            layer = (piece.place[0], piece.place[1] // blocks)
        layers.append(layer)
    layers = [STEM] * first + layers[::-1][first:]
    order = list(dict.fromkeys([*layers, BEHIND]))
    scales = {layer: decay ** (len(order) - 1 - number) for number, layer in enumerate(order)}
    return {name: scales[layer] for piece, layer in zip(pieces, layers) for name in piece.parameters}


def _pieces(module: nn.Module, prefix: str) -> Iterator[Piece]:
    """A module's parts in their order, whole blocks where they stand in a row."""
    yield Piece([f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)], None)
    for name, child in module.named_children():
        full = f"{prefix}.{name}"
        if _is_row(child):
            yield from (
                Piece([key for key, _ in block.named_parameters(f"{full}.{number}")], (full, place))
                for place, (number, block) in enumerate(child.named_children())
            )
        elif _has_row(child):
            yield from _pieces(child, full)
        else:
            yield Piece([key for key, _ in child.named_parameters(full)], None)


def _is_row(module: nn.Module) -> bool:
    """Whether a module is a row of blocks: what it holds is numbered or in sequence, and has parts of its own."""
    members = dict(module.named_children())
    in_sequence = isinstance(module, nn.Sequential | nn.ModuleList) or all(name.isdigit() for name in members)
    blocks = all(any(True for _ in member.children()) for member in members.values())
    return bool(members) and in_sequence and blocks and not any(map(_has_row, members.values()))


def _has_row(module: nn.Module) -> bool:
    return any(map(_is_row, module.modules()))
