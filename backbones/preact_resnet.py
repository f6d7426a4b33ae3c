"""Pre-activation ResNet (He et al. 2016, Identity Mappings in Deep Residual Networks), for ImageNet and for CIFAR.

Norm and ReLU come before each convolution, so that there are only additions on the path from block to block. Wide
ResNets for CIFAR (Zagoruyko & Komodakis 2016, Wide Residual Networks) have the same blocks.
"""

from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import PositiveFloat, PositiveInt, ProperFraction
from chordate.backbones.base import STRIDES_AND_DILATIONS, MapNames, StagedBackbone
from chordate.backbones.cifar_resnet import STRIDES, WIDTHS
from chordate.backbones.layers import ResidualBlock, ZeroPadShortcut, conv
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.convolutions import he_init
from chordate.ops.norms import Norm, conv_norm, make_norm
from chordate.registry import BACKBONES

Depth = Literal[50, 101, 152, 200]
# Number of blocks in c2 … c5. 50, 101, 152: table 1 of the ResNet paper; 200: Identity Mappings, section 4.
DEPTHS: dict[Depth, tuple[int, int, int, int]] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
# Wide ResNets, tables 4 and 5: depth and widening factor.
WIDE_SIZES = ((16, 4), (16, 8), (28, 10), (40, 4))


class PreActResidualBlock(ResidualBlock):
    """Base class of pre-activation blocks: norm and ReLU before each convolution, none after the addition (figure 4e).

    If the shape changes, `shortcut="A"` is zero padding, and `shortcut="B"` is a 1×1 convolution that is
    applied after the first norm and ReLU.

    Attributes:
        carries_active: whether the identity shortcut starts after the first norm and ReLU, as in the first block of a
            network.
    """

    carries_active = False
    norm1: nn.Module
    downsample: nn.Module

    @staticmethod
    def make_shortcut(
        option: Literal["A", "B"], in_channels: int, out_channels: int, stride: int, norm: Norm, dilation: int
    ) -> nn.Module:
        if stride == 1 and in_channels == out_channels:
            return nn.Identity()
        if option == "A":
            return ZeroPadShortcut(in_channels, out_channels, stride)
        return conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))  # not in place: without a norm, this would change x, the shortcut's input
        y = self.drop_path(self.se(self.branch(active)))
        is_projection = isinstance(self.downsample, nn.Conv2d)
        return y + self.downsample(active if is_projection or self.carries_active else x)


class PreActBlock(PreActResidualBlock):
    """Two 3×3 convolutions; the first has the stride.

    Options:
        dropout: dropout probability between the convolutions (Zagoruyko & Komodakis 2016, section 2.4).
    """

    expansion = 1

    def add_branch(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilations: tuple[int, int],
        norm: Norm,
        dropout: float = 0.0,
    ) -> None:
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = conv(in_channels, width, 3, stride, dilations[0])
        self.norm2 = make_norm(norm, width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(width, width, 3, 1, dilations[1])

    def branch(self, active: Tensor) -> Tensor:
        y = self.relu(conv_norm(self.conv1, self.norm2, active))
        return self.conv2(self.dropout(y))


class PreActBottleneck(PreActResidualBlock):
    """1×1, 3×3 and 1×1 convolutions; the 3×3 convolution has the stride."""

    expansion = 4

    def add_branch(self, in_channels: int, width: int, stride: int, dilations: tuple[int, int], norm: Norm) -> None:
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = conv(in_channels, width, 1)
        self.norm2 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, stride, dilations[0])
        self.norm3 = make_norm(norm, width)
        self.conv3 = conv(width, width * self.expansion, 1)

    def branch(self, active: Tensor) -> Tensor:
        y = self.relu(conv_norm(self.conv1, self.norm2, active))
        return self.conv3(self.relu(conv_norm(self.conv2, self.norm3, y)))


def _norm_relu(norm: Norm, channels: int) -> nn.Sequential:
    return nn.Sequential(make_norm(norm, channels), nn.ReLU(inplace=True))


@BACKBONES.register_module()
class PreActResNet(StagedBackbone):
    """Pre-activation ResNet: computes the feature maps in `out` from normalized images `[N, in_channels, H, W]`.

    c1 is the output of the 7×7 convolution (stride 2), without norm. c2 … c4 are the outputs of the last addition in
    each stage, before norm and ReLU, as in timm; c5 includes the network's final norm and ReLU.

    Args:
        depth: 50, 101, 152 or 200, all with bottleneck blocks.
        out, in_channels, frozen_stages, checkpointing: see `StagedBackbone`.
        norm: see `make_norm`.
        se: ratio of squeeze-and-excitation in every block, see `squeeze_excitation`, or None.
        output_stride: 32, 16 or 8, see `STRIDES_AND_DILATIONS`.
        drop_path: stochastic depth rate of the last block, see `drop_rates`.

    Raises:
        ConfigError: see `StagedBackbone`.
    """

    def __init__(
        self,
        depth: Depth,
        *,
        out: MapNames = ("c2", "c3", "c4", "c5"),
        in_channels: PositiveInt = 3,
        norm: Norm = "BN",
        se: PositiveFloat | None = None,
        frozen_stages: int = -1,
        output_stride: Literal[8, 16, 32] = 32,
        drop_path: ProperFraction = 0.0,
        checkpointing: bool = False,
    ):
        name = f"pre-activation ResNet-{depth}"
        super().__init__(
            name, out=out, in_channels=in_channels, frozen_stages=frozen_stages, checkpointing=checkpointing
        )
        strides, dilations = STRIDES_AND_DILATIONS[output_stride]
        self.add(0, FeatureSpec(64, 2), conv1=conv(in_channels, 64, 7, 2))
        if self.needs(1):
            self.add(0, maxpool=nn.MaxPool2d(3, 2, padding=1))
        self.add_stages(
            PreActBottleneck,
            64,
            (64, 128, 256, 512),
            strides,
            DEPTHS[depth],
            stride=4,
            dilations=dilations,
            drop_path=drop_path,
            closing=partial(_norm_relu, norm),
            norm=norm,
            se=se,
        )
        he_init(self)
        self.freeze()


@BACKBONES.register_module()
class CifarPreActResNet(StagedBackbone):
    """Pre-activation ResNet for CIFAR: computes the feature maps in `out` from images `[N, in_channels, H, W]`.

    c1 … c4 have strides 1, 1, 2 and 4. c2 and c3 are the outputs of the last addition in each stage, before norm and
    ReLU; c4 includes the network's final norm and ReLU.

    Args:
        depth: 6n + 2 with basic blocks (or 6n + 4, as in Wide ResNets, whose depth includes projections); 9n + 2 with
            bottlenecks.
        bottleneck: whether to use bottleneck blocks, which output four times as many channels, instead of basic blocks.
        widen: widening factor, which multiplies the blocks' widths of 16, 32 and 64.
        shortcut: "A" or "B", the shortcut of blocks that change the shape, see `PreActResidualBlock`.
        dropout: dropout probability between the convolutions of a basic block.

    The other arguments are as in `PreActResNet`.

    Raises:
        ConfigError: the depth does not have one of these forms; see also `StagedBackbone`.
    """

    maps = ("c1", "c2", "c3", "c4")

    def __init__(
        self,
        depth: int,
        *,
        bottleneck: bool = False,
        widen: PositiveInt = 1,
        shortcut: Literal["A", "B"] = "B",
        dropout: ProperFraction = 0.0,
        out: MapNames = ("c4",),
        in_channels: PositiveInt = 3,
        norm: Norm = "BN",
        se: PositiveFloat | None = None,
        frozen_stages: int = -1,
        drop_path: ProperFraction = 0.0,
        checkpointing: bool = False,
    ):
        layers = 9 if bottleneck else 6
        count, rest = divmod(depth, layers)
        if not count or rest not in ((2,) if bottleneck else (2, 4)):
            allowed = f"{layers}n + 2{'' if bottleneck else ' or 6n + 4'}"
            raise ConfigError(f"CifarPreActResNet: depth must be {allowed}, got {depth}")
        name = f"WRN-{depth}-{widen}" if widen > 1 else f"pre-activation ResNet-{depth} (CIFAR)"
        super().__init__(
            name, out=out, in_channels=in_channels, frozen_stages=frozen_stages, checkpointing=checkpointing
        )
        options: dict[str, Any] = {} if bottleneck else {"dropout": dropout}
        self.add(0, FeatureSpec(16, 1), conv1=conv(in_channels, 16, 3))
        self.add_stages(
            PreActBottleneck if bottleneck else PreActBlock,
            16,
            [width * widen for width in WIDTHS],
            STRIDES,
            [count] * 3,
            stride=1,
            drop_path=drop_path,
            closing=partial(_norm_relu, norm),
            shortcut=shortcut,
            norm=norm,
            se=se,
            **options,
        )
        # As in the appendix of Identity Mappings, the identity shortcut of the first block starts after the block's
        # first norm and ReLU. In bottleneck and wide networks, the first block adds channels, so its shortcut is not an
        # identity; projections start after norm and ReLU in every block.
        if not bottleneck and widen == 1 and self.needs(1):
            first: Any = self.get_submodule("layer1.0")
            first.carries_active = True
        he_init(self)
        self.freeze()


BACKBONES.register_variants(
    {f"preact_resnet{d}": {"type": "PreActResNet", "depth": d} for d in DEPTHS}
    | {"preact_resnet110_cifar": {"type": "CifarPreActResNet", "depth": 110, "shortcut": "A"}}
    | {f"preact_resnet{d}_cifar": {"type": "CifarPreActResNet", "depth": d, "bottleneck": True} for d in (164, 1001)}
    | {f"wrn{d}_{widen}_cifar": {"type": "CifarPreActResNet", "depth": d, "widen": widen} for d, widen in WIDE_SIZES}
)
