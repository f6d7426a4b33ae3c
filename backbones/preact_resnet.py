"""Pre-activation ResNet (He et al. 2016, Identity Mappings in Deep Residual Networks), for ImageNet and for CIFAR.

Norm and ReLU come before each convolution, so that nothing but additions lies on the way from block to block. Wide
ResNets for CIFAR are made of the same blocks (`wide_cifar.py`).
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from chordate.backbones.blocks import (
    Block,
    Norm,
    ZeroPadShortcut,
    check_choice,
    conv,
    drop_path,
    he_init,
    squeeze_excitation,
)
from chordate.backbones.staged import StagedBackbone
from chordate.backbones.stages import add_stages, strides_and_dilations
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.norms import conv_norm, make_norm
from chordate.registry import BACKBONES

# Blocks of c2 … c5: the ResNet paper's table 1; 200: Identity Mappings, section 4.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}


class PreActBlock(Block):
    """Two 3×3 convolutions, each after norm and ReLU (figure 4e), `[N, in_channels, H, W]` to `[N, width, H/s, W/s]`.

    Args:
        in_channels, width, stride, dilation, dilation_before, norm, se: as of `BasicBlock`.
        shortcut: where the shape changes: "A" zero padding, or "B" a 1×1 convolution of the activated map.
        drop: see `drop_path`.
        dropout: share of channels left out between the convolutions (Zagoruyko & Komodakis 2016, section 2.4).

    Attributes:
        carries_active: the shortcut of the same shape starts from the activated map, as in a network's first block.
    """

    expansion = 1
    carries_active = False

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        dilation_before: int = 1,
        shortcut: str = "B",
        norm: Norm = "BN",
        se: float | None = None,
        drop: float = 0.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = conv(in_channels, width, 3, stride, dilation_before)
        self.norm2 = make_norm(norm, width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(width, width, 3, 1, dilation)
        self.se = squeeze_excitation(width, se)
        self.drop_path = drop_path(drop)
        self.downsample = _shortcut(shortcut, in_channels, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))  # not in place: without a norm it would be in x, which is carried on
        y = self.relu(conv_norm(self.conv1, self.norm2, active))
        y = self.se(self.conv2(self.dropout(y)))
        return self.drop_path(y) + _carried(self.downsample, active if self.carries_active else x, active)


class PreActBottleneck(Block):
    """1×1, 3×3 and 1×1, each after norm and ReLU, `[N, in_channels, H, W]` to `[N, 4 * width, H/s, W/s]`.

    Arguments as of `PreActBlock`; the stride is in the 3×3, `width` is of the first two convolutions.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        dilation_before: int = 1,
        shortcut: str = "B",
        norm: Norm = "BN",
        se: float | None = None,
        drop: float = 0.0,
    ):
        super().__init__()
        out_channels = width * self.expansion
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = conv(in_channels, width, 1)
        self.norm2 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, stride, dilation_before)
        self.norm3 = make_norm(norm, width)
        self.conv3 = conv(width, out_channels, 1)
        self.se = squeeze_excitation(out_channels, se)
        self.drop_path = drop_path(drop)
        self.downsample = _shortcut(shortcut, in_channels, out_channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))  # not in place: without a norm it would be in x, which is carried on
        y = self.relu(conv_norm(self.conv1, self.norm2, active))
        y = self.se(self.conv3(self.relu(conv_norm(self.conv2, self.norm3, y))))
        return self.drop_path(y) + _carried(self.downsample, x, active)


def _shortcut(option: str, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """What changes the shape of the carried map; None where it stays."""
    check_choice("shortcut option of a pre-activation block", option, ("A", "B"))
    if stride == 1 and in_channels == out_channels:
        return None
    if option == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    return conv(in_channels, out_channels, 1, stride)


def _carried(shortcut: nn.Module | None, x: Tensor, active: Tensor) -> Tensor:
    if shortcut is None:
        return x
    return shortcut(x if isinstance(shortcut, ZeroPadShortcut) else active)


def _norm_relu(norm: Norm, channels: int) -> nn.Sequential:
    return nn.Sequential(make_norm(norm, channels), nn.ReLU(inplace=True))


@BACKBONES.register_module()
class PreActResNet(StagedBackbone):
    """Normalised images `[N, in_channels, H, W]` to the maps named in `out`.

    c1 is the bare 7×7 convolution (stride 2), c2 … c4 are the sums that the stages pass on, without norm, as timm's
    features are; c5 has the network's last norm and ReLU.

    Args:
        depth: 50, 101, 152 or 200, of bottlenecks.
        out, in_channels, frozen_stages, checkpointing: see `StagedBackbone`.
        norm: see `make_norm`.
        se: ratio of squeeze-and-excitation in every block, see `squeeze_excitation`, or None.
        output_stride: 32, 16 or 8, see `ResNet`.
        drop_path: see `drop_rates`.

    Raises:
        ConfigError: a value that is not one of the above.
    """

    def __init__(
        self,
        depth: int,
        *,
        out: Sequence[str] = ("c2", "c3", "c4", "c5"),
        in_channels: int = 3,
        norm: Norm = "BN",
        se: float | None = None,
        frozen_stages: int = -1,
        output_stride: int = 32,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ):
        name = f"pre-activation ResNet-{depth}"
        if depth not in DEPTHS:
            raise ConfigError(f"PreActResNet: depth={depth!r}; known depths: {', '.join(map(str, DEPTHS))}")
        strides, dilations = strides_and_dilations(name, output_stride)
        super().__init__(
            name, out=out, in_channels=in_channels, frozen_stages=frozen_stages, checkpointing=checkpointing
        )
        self.add(0, FeatureSpec(64, 2), conv1=conv(in_channels, 64, 7, 2))
        if self.needs(1):
            self.add(0, maxpool=nn.MaxPool2d(3, 2, padding=1))
        add_stages(
            self,
            PreActBottleneck,
            64,
            (64, 128, 256, 512),
            strides,
            DEPTHS[depth],
            stride=4,
            dilations=dilations,
            drop_path=drop_path,
            closing=lambda channels: _norm_relu(norm, channels),
            norm=norm,
            se=se,
        )
        he_init(self)
        self.freeze()


@BACKBONES.register_module()
class CifarPreActResNet(StagedBackbone):
    """Normalised images `[N, in_channels, H, W]` to the maps named in `out`, c1 … c4 with strides 1, 1, 2 and 4.

    c2 and c3 are the bare sums that the stages pass on; c4 has the network's last norm and ReLU.

    Args:
        depth: with basic blocks 6n + 2, or 6n + 4 as wide networks count; with bottlenecks 9n + 2.
        bottleneck: 1×1, 3×3, 1×1 blocks, four times as wide outside.
        widen: multiplies the widths of the blocks, 16, 32 and 64; wide networks count their projections too.
        shortcut: where the shape changes, see `PreActBlock`.
        dropout: between the convolutions of a basic block.

    The others as in `PreActResNet`.
    """

    maps = ("c1", "c2", "c3", "c4")

    def __init__(
        self,
        depth: int,
        *,
        bottleneck: bool = False,
        widen: int = 1,
        shortcut: str = "B",
        dropout: float = 0.0,
        out: Sequence[str] = ("c4",),
        in_channels: int = 3,
        norm: Norm = "BN",
        se: float | None = None,
        frozen_stages: int = -1,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ):
        layers = 9 if bottleneck else 6
        count, rest = divmod(depth, layers)
        if not count or rest not in ((2,) if bottleneck else (2, 4)):
            raise ConfigError(
                f"CifarPreActResNet: depth={depth!r}; it is {layers}n + 2{'' if bottleneck else ' or + 4'}"
            )
        options: dict[str, Any] = {} if bottleneck else {"dropout": dropout}
        name = f"WRN-{depth}-{widen}" if widen > 1 else f"pre-activation ResNet-{depth} (CIFAR)"
        super().__init__(
            name, out=out, in_channels=in_channels, frozen_stages=frozen_stages, checkpointing=checkpointing
        )
        self.add(0, FeatureSpec(16, 1), conv1=conv(in_channels, 16, 3))
        add_stages(
            self,
            PreActBottleneck if bottleneck else PreActBlock,
            16,
            [width * widen for width in (16, 32, 64)],
            (1, 2, 2),
            [count] * 3,
            stride=1,
            drop_path=drop_path,
            closing=lambda channels: _norm_relu(norm, channels),
            shortcut=shortcut,
            norm=norm,
            se=se,
            **options,
        )
        if not bottleneck and widen == 1 and self.needs(1):  # Identity Mappings, appendix: elsewhere it projects
            first: Any = self.get_submodule("layer1.0")
            first.carries_active = True
        he_init(self)
        self.freeze()


BACKBONES.register_variants(
    {f"preact_resnet{d}": {"type": "PreActResNet", "depth": d} for d in DEPTHS}
    | {"preact_resnet110_cifar": {"type": "CifarPreActResNet", "depth": 110, "shortcut": "A"}}
    | {f"preact_resnet{d}_cifar": {"type": "CifarPreActResNet", "depth": d, "bottleneck": True} for d in (164, 1001)}
)
