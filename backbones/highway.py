"""Highway networks (Srivastava et al. 2015), which preceded ResNets: shortcuts with a learned gate."""

from typing import Any

import torch
from torch import Tensor, nn

from chordate.arguments import PositiveInt
from chordate.backbones.base import MapNames, StagedBackbone
from chordate.backbones.cifar_resnet import STRIDES, WIDTHS
from chordate.backbones.layers import Block, conv
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.convolutions import he_init
from chordate.ops.norms import Norm, conv_norm, make_norm
from chordate.registry import BACKBONES

GATE_BIAS = -2.0  # section 2.2: negative, so that a deep network initially passes its input through


class HighwayBlock(Block):
    """y = H(x) · T(x) + x · (1 - T(x)) (equation 3) if the shape is unchanged, else y = H(x).

    H is a 3×3 convolution, norm and ReLU; T, the transform gate, is a 3×3 convolution and a sigmoid. Input
    `[N, in_channels, H, W]`, output `[N, width, H / stride, W / stride]`.

    Args:
        in_channels, width: number of input and output channels.
        stride: stride of H.
        norm: norm of H, see `make_norm`.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int = 1, norm: Norm = "BN", **_: Any):
        super().__init__()
        self.conv = conv(in_channels, width, 3, stride)
        self.bn = make_norm(norm, width)
        self.relu = nn.ReLU(inplace=True)
        same_shape = stride == 1 and in_channels == width
        self.gate = nn.Conv2d(in_channels, width, 3, padding=1) if same_shape else None

    def forward(self, x: Tensor) -> Tensor:
        transformed = self.relu(conv_norm(self.conv, self.bn, x))
        if self.gate is None:
            return transformed
        gate = self.gate(x).sigmoid()
        return torch.lerp(x, transformed, gate)


@BACKBONES.register_module()
class HighwayNet(StagedBackbone):
    """Highway network for CIFAR: computes the feature maps in `out` from normalized images `[N, in_channels, H, W]`.

    c1 … c4 have strides 1, 1, 2 and 4. Stem, widths and strides are as in `CifarResNet`, for comparison; the CIFAR
    networks in the paper's table 2 have other widths.

    Args:
        depth: number of layers, 3n + 2: the stem, 3n blocks and the classifier.
        out, in_channels, frozen_stages, checkpointing: see `StagedBackbone`.
        norm: norm of H in each block and of the stem, see `make_norm`; the paper uses none.

    Raises:
        ConfigError: the depth is not 3n + 2.
    """

    maps = ("c1", "c2", "c3", "c4")

    def __init__(
        self,
        depth: int,
        *,
        out: MapNames = ("c4",),
        in_channels: PositiveInt = 3,
        norm: Norm = "BN",
        frozen_stages: int = -1,
        checkpointing: bool = False,
    ):
        if depth < 5 or depth % 3 != 2:
            raise ConfigError(f"HighwayNet: depth must be 3n + 2 (e.g. 20, 32, 44, 56), got {depth}")
        name = f"highway-{depth} (CIFAR)"
        super().__init__(
            name, out=out, in_channels=in_channels, frozen_stages=frozen_stages, checkpointing=checkpointing
        )
        stem = {"conv1": conv(in_channels, 16, 3), "bn1": make_norm(norm, 16), "relu": nn.ReLU(inplace=True)}
        self.add(0, FeatureSpec(16, 1), **stem)
        self.add_stages(HighwayBlock, 16, WIDTHS, STRIDES, [depth // 3] * 3, stride=1, norm=norm)
        he_init(self)
        for module in self.modules():
            if isinstance(module, HighwayBlock) and module.gate is not None and module.gate.bias is not None:
                nn.init.constant_(module.gate.bias, GATE_BIAS)
        self.freeze()


BACKBONES.register_variants({f"highway{d}_cifar": {"type": "HighwayNet", "depth": d} for d in (20, 32)})
