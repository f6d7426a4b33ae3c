"""ResNets with 6n + 2 layers for CIFAR-10, and plain networks (He et al. 2016, section 4.2 and table 6)."""

from typing import Any

from torch import nn

from chordate.arguments import PositiveFloat, PositiveInt, ProperFraction
from chordate.backbones.base import MapNames, StagedBackbone
from chordate.backbones.layers import BasicBlock, Shortcut, conv
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.convolutions import he_init
from chordate.ops.norms import Norm, make_norm
from chordate.registry import BACKBONES

WIDTHS, STRIDES = (16, 32, 64), (1, 2, 2)


@BACKBONES.register_module()
class CifarResNet(StagedBackbone):
    """ResNet for CIFAR: computes the feature maps in `out` from normalized images `[N, in_channels, H, W]`.

    c1 is the stem's output, c2 … c4 are the stages' outputs. c1 … c4 have strides 1, 1, 2 and 4, and 16, 16, 32 and 64
    channels.

    Args:
        depth: number of layers, 6n + 2 with n ≥ 1.
        out, in_channels, frozen_stages, checkpointing: see `StagedBackbone`.
        shortcut: "A" (without parameters) as in the paper; "A-centered" or "B" for the weights of other repositories;
            "none" for a plain network; see `make_shortcut`.
        norm: see `make_norm`.
        se: ratio of squeeze-and-excitation in every block, see `squeeze_excitation`, or None.
        drop_path: stochastic depth rate of the last block, see `drop_rates`.

    Raises:
        ConfigError: the depth is not 6n + 2, or arguments contradict each other.
    """

    maps = ("c1", "c2", "c3", "c4")

    def __init__(
        self,
        depth: int,
        *,
        out: MapNames = ("c4",),
        in_channels: PositiveInt = 3,
        shortcut: Shortcut = "A",
        norm: Norm = "BN",
        se: PositiveFloat | None = None,
        frozen_stages: int = -1,
        drop_path: ProperFraction = 0.0,
        checkpointing: bool = False,
    ):
        if depth < 8 or depth % 6 != 2:
            raise ConfigError(f"CifarResNet: depth must be 6n + 2 (e.g. 20, 32, 44, 56, 110, 1202), got {depth}")
        name = f"{'plain' if shortcut == 'none' else 'ResNet'}-{depth} (CIFAR)"
        super().__init__(
            name, out=out, in_channels=in_channels, frozen_stages=frozen_stages, checkpointing=checkpointing
        )
        self.shortcut = shortcut
        stem = {"conv1": conv(in_channels, 16, 3), "bn1": make_norm(norm, 16), "relu": nn.ReLU(inplace=True)}
        self.add(0, FeatureSpec(16, 1), **stem)
        options: dict[str, Any] = {"shortcut": shortcut, "norm": norm, "se": se}
        self.add_stages(BasicBlock, 16, WIDTHS, STRIDES, [depth // 6] * 3, stride=1, drop_path=drop_path, **options)
        he_init(self)
        self.freeze()


BACKBONES.register_variants(
    {f"resnet{d}_cifar": {"type": "CifarResNet", "depth": d} for d in (20, 32, 44, 56, 110, 1202)}
    | {f"plain{d}_cifar": {"type": "CifarResNet", "depth": d, "shortcut": "none"} for d in (20, 32, 44, 56)}
)
