"""Layers and residual blocks of the ResNet family (He et al. 2016, sections 3.3 and 4.1).

Modules have the same names as in torchvision and timm (`conv1`, `bn1`, `downsample`) for every type of norm, so that
pretrained weights load without renaming.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation, StochasticDepth

from chordate.ops.norms import ConvNorm, Norm, conv_norm, make_norm

Style = Literal["pytorch", "caffe"]
Shortcut = Literal["A", "A-centered", "B", "C", "D", "none"]


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias (a norm follows), padded so that stride 1 keeps height and width."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


def squeeze_excitation(channels: int, ratio: float | None) -> nn.Module:
    """Squeeze-and-excitation: reweights channels by global context (Hu et al. 2018, section 3).

    `ratio` is 1/16 in table 2 of the paper; None for no squeeze-and-excitation. The number of squeezed channels,
    `channels * ratio`, is rounded to a multiple of 8, at least 8, as in timm.
    """
    if ratio is None:
        return nn.Identity()
    return SqueezeExcitation(channels, max(8, int(channels * ratio + 4) // 8 * 8))


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth: drops a residual branch for a fraction `rate` of the training images (Huang et al. 2016)."""
    return StochasticDepth(rate, "row") if rate else nn.Identity()


def drop_rates(rate: float, blocks: int) -> list[float]:
    """Stochastic depth rates, rising linearly from 0 (first block) to `rate` (last block; Huang et al. 2016, eq. 4).

    The paper counts blocks from 1, so its first block has a rate above 0; here, as in timm, blocks are counted from 0.
    """
    return [rate * i / max(1, blocks - 1) for i in range(blocks)]


def deep_stem_conv(in_channels: int, out_channels: int, norm: Norm) -> ConvNorm:
    """The deep stem: three 3×3 convolutions, total stride 2 (ResNet-C, He T. et al. 2019, section 4.2).

    The norm and ReLU after the last convolution are not included; `ResNet` adds them, as after the 7×7 convolution.
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


class ZeroPadShortcut(nn.Module):
    """Shortcut of option A: subsamples by `stride` and zero-pads the additional channels. Has no parameters.

    Args:
        in_channels, out_channels, stride: channels and stride of the block.
        centered: whether half of the zeros come before the input's channels; otherwise, all of them come after.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, centered: bool = False):
        super().__init__()
        self.stride = stride
        added = out_channels - in_channels
        self.padding = (added // 2, added - added // 2) if centered else (0, added)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


def make_shortcut(
    option: Shortcut, in_channels: int, out_channels: int, stride: int, norm: Norm, dilation: int = 1
) -> nn.Module | None:
    """The shortcut of a residual block (He et al. 2016, section 4.1 and table 3).

    Args:
        option: "A" for zero padding if the shape changes, with the zeros after the input's channels; "A-centered" for
            half of the zeros before these channels and half after them, as in pytorch_resnet_cifar10; "B" for a 1×1
            projection if the shape changes, the common choice; "C" for a projection in every block; "D" for option B
            with the stride in an average pool before the projection, so that no position is ignored (He T. et al. 2019,
            section 4.2); "none" for no shortcut (plain networks).
        in_channels, out_channels, stride: channels and stride of the block.
        norm: norm after the projection, see `make_norm`.
        dilation: dilation of the block. If dilation replaces a stride, option D still averages 2×2 adjacent positions,
            with zero padding at the right and the bottom, as in timm. For even sizes, the strided network averages the
            same positions, except in c5 at output stride 8: there, the positions that it averages are two cells apart.
    """
    if option == "none":
        return None
    same_shape = stride == 1 and in_channels == out_channels
    if option != "C" and same_shape:
        return nn.Identity()
    if option in ("A", "A-centered"):
        return ZeroPadShortcut(in_channels, out_channels, stride, centered=option == "A-centered")
    projection = conv(in_channels, out_channels, 1, 1 if option == "D" else stride), make_norm(norm, out_channels)
    if option != "D":
        return ConvNorm(*projection)
    pool: nn.Module = nn.Identity()
    if stride > 1:
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    elif dilation > 1:
        pool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1))
    return ConvNorm(pool, *projection)


class Block(nn.Module):
    """Base class of blocks: `block(in_channels, width, stride=…, …)` outputs `expansion * width` channels."""

    expansion: int


class ResidualBlock(Block):
    """Base class of residual blocks: the sum of a branch of convolutions and a shortcut, then ReLU.

    Input `[N, in_channels, H, W]`, output `[N, expansion * width, H / stride, W / stride]`. A subclass creates the
    branch's convolutions and norms in `add_branch`, and applies them in `branch`.

    Args:
        in_channels: number of channels of the input.
        width: number of channels of the branch's convolutions; the last one outputs `expansion * width` channels.
        stride: stride of one convolution of the branch, and of the shortcut.
        dilation: dilation of 3×3 convolutions after the strided convolution.
        dilation_before: dilation of the strided 3×3 convolution (its stride is 1 if dilation replaces the stride);
            timm's `first_dilation`.
        shortcut: see `make_shortcut`.
        norm: norm after each convolution, see `make_norm`.
        se: ratio of squeeze-and-excitation at the end of the branch, see `squeeze_excitation`.
        drop: stochastic depth rate, see `drop_path`.
        options: further arguments of the subclass's `add_branch`.
    """

    add_branch: Callable[..., None]  # (in_channels, width, stride, (dilation_before, dilation), norm, **options)
    branch: Callable[[Tensor], Tensor]
    make_shortcut: Callable[..., nn.Module | None] = staticmethod(make_shortcut)

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        dilation_before: int = 1,
        shortcut: Shortcut = "B",
        norm: Norm = "BN",
        se: float | None = None,
        drop: float = 0.0,
        **options: Any,
    ):
        super().__init__()
        out_channels = width * self.expansion
        self.add_branch(in_channels, width, stride, (dilation_before, dilation), norm, **options)
        self.se = squeeze_excitation(out_channels, se)
        self.drop_path = drop_path(drop)
        self.downsample = self.make_shortcut(shortcut, in_channels, out_channels, stride, norm, dilation)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop_path(self.se(self.branch(x)))
        return self.relu(y if self.downsample is None else y + self.downsample(x))


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions; the first has the stride (figure 5, left)."""

    expansion = 1

    def add_branch(self, in_channels: int, width: int, stride: int, dilations: tuple[int, int], norm: Norm) -> None:
        self.conv1 = conv(in_channels, width, 3, stride, dilations[0])
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1, dilations[1])
        self.bn2 = make_norm(norm, width)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def branch(self, x: Tensor) -> Tensor:
        y = self.relu(conv_norm(self.conv1, self.bn1, x))
        return conv_norm(self.conv2, self.bn2, y)


class Bottleneck(ResidualBlock):
    """1×1, 3×3 and 1×1 convolutions (figure 5, right).

    Options:
        style: "pytorch" puts the stride in the 3×3 convolution (ResNet v1.5), "caffe" in the first 1×1 one (the paper).
        groups, group_width: the 3×3 convolution has `groups` groups (the cardinality) of `group_width · width / 64`
            channels each (Xie et al. 2017, section 3.3 and table 1); `groups=1` with `group_width=128` doubles its
            channels (Zagoruyko & Komodakis 2016).
    """

    expansion = 4

    def add_branch(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilations: tuple[int, int],
        norm: Norm,
        style: Style = "pytorch",
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        inner = width * group_width // 64 * groups
        first, second, dilation = (stride, 1, dilations[1]) if style == "caffe" else (1, stride, dilations[0])
        self.conv1 = conv(in_channels, inner, 1, first)
        self.bn1 = make_norm(norm, inner)
        self.conv2 = conv(inner, inner, 3, second, dilation, groups)
        self.bn2 = make_norm(norm, inner)
        self.conv3 = conv(inner, width * self.expansion, 1)
        self.bn3 = make_norm(norm, width * self.expansion)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def branch(self, x: Tensor) -> Tensor:
        y = self.relu(conv_norm(self.conv1, self.bn1, x))
        y = self.relu(conv_norm(self.conv2, self.bn2, y))
        return conv_norm(self.conv3, self.bn3, y)
