"""Stages of residual blocks: how many, how wide, with what strides, dilations and stochastic depth."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from chordate.backbones.blocks import Block
from chordate.backbones.staged import StagedBackbone
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError

OUTPUT_STRIDES = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}


def strides_and_dilations(name: str, output_stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of c2 … c5 in the network `name`: dilation makes up for the strides that `output_stride` takes away.

    So the network computes the same values on a finer grid (Chen et al. 2017, DeepLab v3, section 3.1).
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ConfigError(f"{name}: output_stride={output_stride!r}; it is 32, 16 or 8")
    return OUTPUT_STRIDES[output_stride]


def drop_rates(rate: float, blocks: int) -> list[float]:
    """Linear decay of the survival rate (Huang et al. 2016, equation 4): 0 for the first block, `rate` for the last.

    The paper counts blocks from 1, so that the first is left out now and then too; timm's recipes count from 0.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"drop_path={rate!r}; it is a share from 0 to below 1")
    return [rate * i / max(1, blocks - 1) for i in range(blocks)]


def add_stages(
    backbone: StagedBackbone,
    block: type[Block],
    channels: int,
    widths: Sequence[int],
    strides: Sequence[int],
    counts: Sequence[int],
    *,
    stride: int,
    drop_path: float,
    dilations: Sequence[int] | None = None,
    dilate_first: bool = False,
    multi_grid: Sequence[int] | None = None,
    closing: Callable[[int], nn.Module] | None = None,
    **options: Any,
) -> None:
    """Add `layer1`, `layer2` … to a backbone, those that its maps need.

    Args:
        channels, stride: of the map that the first stage takes.
        widths, strides, counts: of each stage: its blocks' width, its first block's stride, how many blocks.
        drop_path: see `drop_rates`.
        dilations: of each stage; all 1 by default.
        dilate_first: a stage's dilation holds in the first convolution of its first block too; otherwise that keeps
            the dilation of the stage before, whose cells it looks at.
        multi_grid: what the dilation of each block of the last stage is multiplied by.
        closing: makes what follows the last stage and is part of its map (`norm`), from its channels.
        options: every block's.
    """
    if drop_path and options.get("shortcut") == "none":
        raise ConfigError(f"{backbone.name}: drop_path={drop_path!r}, but nothing carries an image past a block here")
    drops = iter(drop_rates(drop_path, sum(counts)))
    dilations = dilations or [1] * len(counts)
    before = 1
    for number, (width, step, count) in enumerate(zip(widths, strides, counts, strict=True), 1):
        if not backbone.needs(number):
            break
        last = number == len(counts)
        grid = multi_grid if multi_grid is not None and last else [1] * count
        stage = nn.Sequential()
        for dilation in (dilations[number - 1] * factor for factor in grid):
            before = dilation if dilate_first else before
            stage.append(
                block(
                    channels, width, stride=step, dilation=dilation, dilation_before=before, drop=next(drops), **options
                )
            )
            channels, stride, step, before = width * block.expansion, stride * step, 1, dilation
        modules: dict[str, nn.Module] = {f"layer{number}": stage}
        if closing is not None and last:
            modules["norm"] = closing(channels)
        backbone.add(number, FeatureSpec(channels, stride), **modules)
