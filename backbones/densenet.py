"""DenseNet (Huang et al. 2017, Densely Connected Convolutional Networks): layers read all earlier layers' outputs."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le, MaxLen, MinLen
from torch import Tensor, nn

from chordate.arguments import PositiveInt, ProperFraction
from chordate.backbones.base import STRIDES_AND_DILATIONS, MapNames, Stage, StagedBackbone
from chordate.backbones.layers import conv
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.convolutions import he_init
from chordate.ops.norms import Norm, conv_norm, make_norm
from chordate.registry import BACKBONES

BOTTLENECK = 4  # section 3, "bottleneck layers": the 1×1 convolution has 4k channels (k: growth rate)


class DenseLayer(nn.Module):
    """1×1 and 3×3 convolutions, each after norm and ReLU; the output is concatenated to the input (eq. 2, DenseNet-B).

    Input `[N, in_channels, H, W]`, output `[N, in_channels + growth, H, W]`. Modules are named as in torchvision.
    """

    def __init__(self, in_channels: int, growth: int, norm: Norm, dropout: float, dilation: int = 1):
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = conv(in_channels, inner, 1)
        self.norm2 = make_norm(norm, inner)
        self.conv2 = conv(inner, growth, 3, dilation=dilation)
        self.dropout = nn.Dropout(dropout)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))  # not in place: without a norm this would change x
        y = self.conv2(self.relu(conv_norm(self.conv1, self.norm2, y)))
        return torch.cat((x, self.dropout(y)), dim=1)


class AtrousAvgPool2d(nn.Module):
    """Dilated 2×2 average pooling with stride 1, and zero padding at the right and the bottom.

    Input and output are `[N, C, H, W]`."""

    def __init__(self, dilation: int):
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        far = self.dilation
        x = F.pad(x, (0, 0, 0, far))
        x = F.pad(x[:, :, :-far] + x[:, :, far:], (0, far))
        return (x[:, :, :, :-far] + x[:, :, :, far:]) / 4


@BACKBONES.register_module()
class DenseNet(StagedBackbone):
    """DenseNet: computes the feature maps in `out` from normalized images `[N, in_channels, H, W]`.

    c1 is the stem's output before the max-pool. c2, c3 … are the dense blocks' outputs before the transitions, which
    halve height and width; the last feature map includes the network's final norm and ReLU.

    Args:
        blocks: number of dense layers in each dense block (table 1).
        growth: growth rate k, the number of channels that each dense layer adds.
        channels: number of channels of the stem; None for twice the growth rate, as in table 1.
        small_stem: whether the stem is a 3×3 convolution of stride 1, for CIFAR, instead of a 7×7 convolution and
            max-pool; the first dense block then has stride 1.
        compression: fraction of the channels that a transition keeps (theta).
        dropout: dropout probability of each dense layer's output.
        output_stride: 32, 16 or 8, see `STRIDES_AND_DILATIONS`; 16 and 8 require four dense blocks and
            `small_stem=False`.
        norm: see `make_norm`.
        out, in_channels, frozen_stages, checkpointing: see `StagedBackbone`. By default, `out` has all feature maps
            from c2, or with `small_stem` only the last one.

    Raises:
        ConfigError: arguments contradict each other.
    """

    def __init__(
        self,
        blocks: Annotated[Sequence[PositiveInt], MinLen(1), MaxLen(4)],
        growth: PositiveInt = 32,
        *,
        channels: PositiveInt | None = None,
        small_stem: bool = False,
        compression: Annotated[float, Gt(0), Le(1)] = 0.5,
        dropout: ProperFraction = 0.0,
        output_stride: Literal[8, 16, 32] = 32,
        norm: Norm = "BN",
        out: MapNames | None = None,
        in_channels: PositiveInt = 3,
        frozen_stages: int = -1,
        checkpointing: bool = False,
    ):
        self.maps = tuple(f"c{stage + 1}" for stage in range(len(blocks) + 1))
        depth = 2 * sum(blocks) + len(blocks) + 1  # layers in dense blocks, transitions, stem and classifier
        name = f"DenseNet-{depth}" + (f" (k={growth})" if small_stem else "")
        super().__init__(
            name,
            out=out or (self.maps[-1:] if small_stem else self.maps[1:]),
            in_channels=in_channels,
            frozen_stages=frozen_stages,
            checkpointing=checkpointing,
        )
        if output_stride != 32 and (small_stem or len(blocks) < 4):
            raise ConfigError(
                f"{name}: output_stride must be 32 with small_stem or with fewer than 4 blocks, got {output_stride}"
            )
        strides, dilations = STRIDES_AND_DILATIONS[output_stride]
        width = channels or 2 * growth
        stride = 1 if small_stem else 2
        if small_stem:
            self.add(0, FeatureSpec(width, stride), conv0=conv(in_channels, width, 3))
        else:
            first, relu = conv(in_channels, width, 7, 2), nn.ReLU(inplace=True)
            self.add(0, FeatureSpec(width, stride), conv0=first, norm0=make_norm(norm, width), relu0=relu)
            if self.needs(1):
                self.add(0, pool0=nn.MaxPool2d(3, 2, padding=1))
                stride *= 2
        for number, layers in enumerate(blocks, 1):
            if not self.needs(number):
                break
            if number > 1:
                narrowed = int(width * compression)
                step = strides[number - 1]
                pool = nn.AvgPool2d(2, 2) if step == 2 else AtrousAvgPool2d(dilations[number - 2])
                transition: dict[str, Any] = {f"transition{number - 1}": _transition(width, narrowed, norm, pool)}
                self.add(number, **transition)
                width, stride = narrowed, stride * step
            block = Stage()
            for i in range(layers):
                block.add_module(f"denselayer{i + 1}", DenseLayer(width, growth, norm, dropout, dilations[number - 1]))
                width += growth
            stage: dict[str, nn.Module] = {f"denseblock{number}": block}
            if number == len(blocks):
                stage |= {f"norm{number + 1}": make_norm(norm, width), "relu": nn.ReLU(inplace=True)}
            self.add(number, FeatureSpec(width, stride), **stage)
        he_init(self)
        self.freeze()


def _transition(in_channels: int, out_channels: int, norm: Norm, pool: nn.Module) -> nn.Sequential:
    transition = nn.Sequential()
    transition.add_module("norm", make_norm(norm, in_channels))
    transition.add_module("relu", nn.ReLU(inplace=True))
    transition.add_module("conv", conv(in_channels, out_channels, 1))
    transition.add_module("pool", pool)
    return transition


# Table 1; 161 is the paper's wider network, k = 48.
DENSENETS: dict[int, dict[str, Any]] = {
    121: {"blocks": (6, 12, 24, 16)},
    161: {"blocks": (6, 12, 36, 24), "growth": 48},
    169: {"blocks": (6, 12, 32, 32)},
    201: {"blocks": (6, 12, 48, 32)},
}
BACKBONES.register_variants(
    {
        f"densenet{depth}": {
            "type": "DenseNet",
            "default_weights": f"torchvision://densenet{depth}/IMAGENET1K_V1",
            **settings,
        }
        for depth, settings in DENSENETS.items()
    }
    # Table 2: DenseNet-BC, L = 100, k = 12.
    | {"densenet100_12_cifar": {"type": "DenseNet", "blocks": (16, 16, 16), "growth": 12, "small_stem": True}}
)
