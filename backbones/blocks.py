"""Residual blocks, shortcuts and stems that the ResNet line is made of (He et al. 2016, sections 3.3 and 4.1).

Parameters are named as torchvision and timm name them (`conv1`, `bn1`, `downsample`), whatever the norm
is, so that their weights load as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation, StochasticDepth

from chordate.errors import ConfigError, unknown
from chordate.ops.norms import ConvNorm, Norm, conv_norm, make_norm


class Block(nn.Module):
    """What stages are made of: `block(in_channels, width, stride=…, …)` gives `expansion * width` channels."""

    expansion: int


STYLES = ("pytorch", "caffe")
SHORTCUTS = ("A", "B", "C", "D", "none")


def check_choice(what: str, value: Any, known: Sequence[str]) -> None:
    """Raises ConfigError unless `value` is one of `known`."""
    if value not in known:
        raise ConfigError(unknown(what, str(value), known))


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias (a norm follows), padded so that only `stride` changes the size."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


def squeeze_excitation(channels: int, ratio: float | None) -> nn.Module:
    """Channels weighed by what the whole map says of them (Hu et al. 2018, section 3), or nothing without a `ratio`.

    The squeezed width is `channels * ratio` to the nearest 8, at least 8, as timm's weights have it; the paper's table
    2 has ratio 1/16.
    """
    if ratio is None:
        return nn.Identity()
    return SqueezeExcitation(channels, max(8, int(channels * ratio + 4) // 8 * 8))


def drop_path(rate: float) -> nn.Module:
    """A residual branch that is left out for a share `rate` of the images of a training batch (Huang et al. 2016)."""
    return StochasticDepth(rate, "row") if rate else nn.Identity()


class ZeroPadShortcut(nn.Module):
    """Option A: every `stride`-th cell, and zeros for the channels that are added. No parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.added = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


def make_shortcut(
    option: str, in_channels: int, out_channels: int, stride: int, norm: Norm, dilation: int = 1
) -> nn.Module | None:
    """The shortcut of a residual block (He et al. 2016, section 4.1 and table 3).

    Args:
        option: "A" zero padding where the shape changes; "B" a 1×1 projection there, the common choice;
            "C" a projection everywhere; "D" as B, with the stride in an average pool before the projection (He T. et
            al. 2019, section 4.2), so that no cell goes unseen; "none" for plain networks: there is no shortcut.
        in_channels, out_channels, stride: of the block.
        norm: of the projection, see `make_norm`.
        dilation: of the block. Where it stands for a stride that was taken away, D still averages 2×2 neighbours, as
            timm does: the cell, the next ones to the right and below, and zeros beyond the border. These are the cells
            that the strided network averages, but for odd sizes, and for a second stage without its stride (c5 at
            output stride 8), where those lie further apart.
    """
    check_choice("shortcut option", option, SHORTCUTS)
    if option == "none":
        return None
    same_shape = stride == 1 and in_channels == out_channels
    if option != "C" and same_shape:
        return nn.Identity()
    if option == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    projection = conv(in_channels, out_channels, 1, 1 if option == "D" else stride), make_norm(norm, out_channels)
    if option != "D":
        return ConvNorm(*projection)
    pool: nn.Module = nn.Identity()
    if stride > 1:
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    elif dilation > 1:
        pool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1))
    return ConvNorm(pool, *projection)


class BasicBlock(Block):
    """Two 3×3 convolutions and a shortcut (figure 5, left), `[N, in_channels, H, W]` to `[N, width, H/s, W/s]`.

    Args:
        in_channels: of the map that comes in.
        width: of both convolutions, and of the map that goes out.
        stride: of the first convolution and the shortcut.
        dilation: of what comes after the stride.
        dilation_before: of the convolution that carries the stride (or would, were it not dilated away).
        shortcut: "A", "B", "C", "D" or "none", see `make_shortcut`.
        norm: see `make_norm`.
        se: ratio of a squeeze-and-excitation at the branch's end, or None.
        drop: see `drop_path`.
        style, groups, group_width: of no meaning here; both styles are the same block, and the convolutions are whole.
    """

    expansion = 1

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
        style: str = "pytorch",
        groups: int = 1,
        group_width: int = 64,
    ):
        super().__init__()
        if groups != 1 or group_width != 64:
            raise ConfigError("groups and group_width are of bottlenecks (depth 50 and more), not of basic blocks")
        self.conv1 = conv(in_channels, width, 3, stride, dilation_before)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1, dilation)
        self.bn2 = make_norm(norm, width)
        self.se = squeeze_excitation(width, se)
        self.drop_path = drop_path(drop)
        self.downsample = make_shortcut(shortcut, in_channels, width, stride, norm, dilation)
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(conv_norm(self.conv1, self.bn1, x))
        y = self.drop_path(self.se(conv_norm(self.conv2, self.bn2, y)))
        return self.relu(y if self.downsample is None else y + self.downsample(x))


class Bottleneck(Block):
    """1×1, 3×3, 1×1 and a shortcut (figure 5, right), `[N, in_channels, H, W]` to `[N, 4 * width, H/s, W/s]`.

    Args:
        style: where the stride is: "pytorch" in the 3×3 (ResNet v1.5), "caffe" in the first 1×1 (the paper).
        groups, group_width: the 3×3 in so many groups (cardinality) of so many channels at width 64, more with the
            width (Xie et al. 2017, section 3.3 and table 1); one group of 128 makes it twice as wide (Zagoruyko &
            Komodakis 2016).

    The others as in `BasicBlock`; `width` is of the first two convolutions before groups make it another.
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
        style: str = "pytorch",
        groups: int = 1,
        group_width: int = 64,
    ):
        super().__init__()
        check_choice("ResNet style", style, STYLES)
        inner, out_channels = width * group_width // 64 * groups, width * self.expansion
        caffe = style == "caffe"
        self.conv1 = conv(in_channels, inner, 1, stride if caffe else 1)
        self.bn1 = make_norm(norm, inner)
        self.conv2 = conv(inner, inner, 3, 1 if caffe else stride, dilation if caffe else dilation_before, groups)
        self.bn2 = make_norm(norm, inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = make_norm(norm, out_channels)
        self.se = squeeze_excitation(out_channels, se)
        self.drop_path = drop_path(drop)
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride, norm, dilation)
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(conv_norm(self.conv1, self.bn1, x))
        y = self.relu(conv_norm(self.conv2, self.bn2, y))
        y = self.drop_path(self.se(conv_norm(self.conv3, self.bn3, y)))
        return self.relu(y if self.downsample is None else y + self.downsample(x))


def he_init(backbone: nn.Module) -> None:
    """He et al. 2015 (Delving Deep into Rectifiers), equation 14, for every convolution; norms start as identities."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there it would only cost time
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def deep_stem_conv(in_channels: int, out_channels: int, norm: Norm) -> ConvNorm:
    """Three 3×3 convolutions of stride 2 in place of the 7×7 (ResNet-C: He T. et al. 2019, section 4.2).

    The norm and ReLU that follow the last one are the ResNet's own, as after a 7×7.
    """
    half = out_channels // 2
    return ConvNorm(
        conv(in_channels, half, 3, 2),
        make_norm(norm, half),
        nn.ReLU(inplace=True),
        conv(half, half, 3),
        make_norm(norm, half),
        nn.ReLU(inplace=True),
        conv(half, out_channels, 3),
    )
