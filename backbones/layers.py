"""Layers and residual blocks of the ResNet family (He et al. 2016, sections 3.3 and 4.1).

Parameters have torchvision's and timm's names (`conv1`, `bn1`, `downsample`), whatever the norm is, so that
pretrained weights load without renaming.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation, StochasticDepth

from chordate.ops.norms import ConvNorm, Norm, conv_norm, make_norm

Style = Literal["pytorch", "caffe"]
Shortcut = Literal["A", "B", "C", "D", "none"]


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias (a norm follows), padded so that only `stride` changes the size."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


def squeeze_excitation(channels: int, ratio: float | None) -> nn.Module:
    """Squeeze-and-excitation: reweights channels by global context (Hu et al. 2018, section 3). None: identity.

    The squeezed width is `channels * ratio` rounded to a multiple of 8, at least 8, as in timm's weights; table 2 of
    the paper has ratio 1/16.
    """
    if ratio is None:
        return nn.Identity()
    return SqueezeExcitation(channels, max(8, int(channels * ratio + 4) // 8 * 8))


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth: skips a residual branch for a fraction `rate` of the training images (Huang et al. 2016)."""
    return StochasticDepth(rate, "row") if rate else nn.Identity()


def drop_rates(rate: float, blocks: int) -> list[float]:
    """Linear decay of the survival rate (Huang et al. 2016, equation 4): 0 for the first block, `rate` for the last.

    The paper counts blocks from 1, so that the first one is dropped too; timm's recipes count from 0, as here.
    """
    return [rate * i / max(1, blocks - 1) for i in range(blocks)]


def deep_stem_conv(in_channels: int, out_channels: int, norm: Norm) -> ConvNorm:
    """Three 3×3 convolutions of total stride 2 that replace the 7×7 (ResNet-C: He T. et al. 2019, section 4.2).

    The norm and ReLU after the last convolution are the ResNet's own, as after a 7×7.
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
    """Option A: subsamples by `stride` and pads the new channels with zeros. No parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.added = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


def make_shortcut(
    option: Shortcut, in_channels: int, out_channels: int, stride: int, norm: Norm, dilation: int = 1
) -> nn.Module | None:
    """The shortcut of a residual block (He et al. 2016, section 4.1 and table 3).

    Args:
        option: "A" for zero padding if the shape changes; "B" for a 1×1 projection if the shape changes, the common
            choice; "C" for a projection in every block; "D" for B with the stride in an average pool before the
            projection (He T. et al. 2019, section 4.2), so that no cell is ignored; "none" for no shortcut (plain
            networks).
        in_channels, out_channels, stride: channels and stride of the block.
        norm: norm of the projection, see `make_norm`.
        dilation: dilation of the block. If it replaces a stride, D still averages 2×2 neighbors, as in timm: the cell,
            the next ones to the right and below, and zeros beyond the border. The strided network averages the same
            cells, except for odd sizes, and for a second stage without its stride (c5 at output stride 8), where the
            cells are further apart.
    """
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


class Block(nn.Module):
    """The building block of stages: `block(in_channels, width, stride=…, …)` outputs `expansion * width` channels."""

    expansion: int


class ResidualBlock(Block):
    """A branch of convolutions added to a shortcut, `[N, in_channels, H, W]` to `[N, expansion * width, H/s, W/s]`.

    A subclass makes the branch's convolutions and norms in `add_branch`, and applies them in `branch`.

    Args:
        in_channels: number of channels of the input.
        width: width of the branch's convolutions; its last one has `expansion * width` channels.
        stride: stride of one convolution of the branch, and of the shortcut.
        dilation: dilation of the 3×3 convolutions after the strided one.
        dilation_before: dilation of the strided 3×3 convolution (whose stride is 1 if dilation replaces it).
        shortcut: see `make_shortcut`.
        norm: see `make_norm`.
        se: ratio of squeeze-and-excitation at the end of the branch, see `squeeze_excitation`.
        drop: see `drop_path`.
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
        style: "pytorch" puts the stride in the 3×3 (ResNet v1.5), "caffe" in the first 1×1 (the paper).
        groups, group_width: the 3×3 has `groups` groups (cardinality) of `group_width` channels at width 64, more in
            proportion to the width (Xie et al. 2017, section 3.3 and table 1); one group of 128 makes it twice as
            wide (Zagoruyko & Komodakis 2016).
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
