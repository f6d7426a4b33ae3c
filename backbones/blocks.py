"""Residual blocks, shortcuts and stems that the ResNet line is made of (He et al. 2016, sections 3.3 and 4.1).

Parameters are named as torchvision and timm name them (`conv1`, `bn1`, `downsample`), whatever the norm
is, so that their weights load as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from chordate.errors import ConfigError, unknown
from chordate.ops.norms import make_norm

Norm = str | Mapping[str, Any] | None
STYLES = ("pytorch", "caffe")
SHORTCUTS = ("A", "B", "C")


def check_choice(what: str, value: Any, known: Sequence[str]) -> None:
    """Raises ConfigError unless `value` is one of `known`."""
    if value not in known:
        raise ConfigError(unknown(what, str(value), known))


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A convolution without bias (a norm follows), padded so that only `stride` changes the size."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)


class ZeroPadShortcut(nn.Module):
    """Option A: every `stride`-th cell, and zeros for the channels that are added. No parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.added = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


def make_shortcut(option: str, in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """The shortcut of a residual block (He et al. 2016, section 4.1 and table 3).

    Args:
        option: "A" zero padding where the shape changes; "B" a 1×1 projection there, the common choice;
            "C" a projection everywhere.
        in_channels, out_channels, stride: of the block.
        norm: of the projection, see `make_norm`.
    """
    check_choice("shortcut option", option, SHORTCUTS)
    same_shape = stride == 1 and in_channels == out_channels
    if option != "C" and same_shape:
        return nn.Identity()
    if option == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), make_norm(norm, out_channels))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (figure 5, left), `[N, in_channels, H, W]` to `[N, width, H/s, W/s]`.

    Args:
        in_channels: of the map that comes in.
        width: of both convolutions, and of the map that goes out.
        stride: of the first convolution and the shortcut.
        dilation: of what comes after the stride.
        dilation_before: of the convolution that carries the stride (or would, were it not dilated away).
        shortcut: "A", "B" or "C", see `make_shortcut`.
        norm: see `make_norm`.
        style: has no meaning here; both styles are the same block.
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
        style: str = "pytorch",
    ):
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride, dilation_before)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1, dilation)
        self.bn2 = make_norm(norm, width)
        self.downsample = make_shortcut(shortcut, in_channels, width, stride, norm)
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 and a shortcut (figure 5, right), `[N, in_channels, H, W]` to `[N, 4 * width, H/s, W/s]`.

    Args:
        style: where the stride is: "pytorch" in the 3×3 (ResNet v1.5), "caffe" in the first 1×1 (the paper).

    The others as in `BasicBlock`; `width` is of the first two convolutions.
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
        style: str = "pytorch",
    ):
        super().__init__()
        check_choice("ResNet style", style, STYLES)
        out_channels = width * self.expansion
        caffe = style == "caffe"
        self.conv1 = conv(in_channels, width, 1, stride if caffe else 1)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1 if caffe else stride, dilation if caffe else dilation_before)
        self.bn2 = make_norm(norm, width)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = make_norm(norm, out_channels)
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride, norm)
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(x))


def make_stage(
    block: type[BasicBlock] | type[Bottleneck],
    count: int,
    in_channels: int,
    width: int,
    *,
    stride: int,
    dilation: int,
    dilation_before: int,
    **options: Any,
) -> nn.Sequential:
    """`count` blocks, the first of which takes `in_channels` and has the stride; `options` are every block's."""
    first = block(in_channels, width, stride=stride, dilation=dilation, dilation_before=dilation_before, **options)
    later = (
        block(width * block.expansion, width, dilation=dilation, dilation_before=dilation, **options)
        for _ in range(count - 1)
    )
    return nn.Sequential(first, *later)


def deep_stem_conv(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Three 3×3 convolutions of stride 2 in place of the 7×7 (ResNet-C: He T. et al. 2019, section 4.2).

    The norm and ReLU that follow the last one are the ResNet's own, as after a 7×7.
    """
    half = out_channels // 2
    return nn.Sequential(
        conv(in_channels, half, 3, 2),
        make_norm(norm, half),
        nn.ReLU(inplace=True),
        conv(half, half, 3),
        make_norm(norm, half),
        nn.ReLU(inplace=True),
        conv(half, out_channels, 3),
    )
