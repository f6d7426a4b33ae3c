"""ConvNeXt (Liu et al. 2022, A ConvNet for the 2020s): a ResNet modernized with design choices of transformers."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import PositiveInt, ProperFraction
from chordate.backbones.base import STRIDES_AND_DILATIONS, MapNames, Stage, StagedBackbone
from chordate.backbones.layers import drop_path as make_drop_path
from chordate.backbones.layers import drop_rates
from chordate.contracts import FeatureSpec
from chordate.registry import BACKBONES

LAYER_SCALE = 1e-6  # initial layer scale, table 5 of the paper's appendix

Size = Literal["tiny", "small", "base", "large"]
# Section 3 and table 9: number of blocks and channels of c2 … c5. Table 5: stochastic depth rate for ImageNet-1k.
SIZES: dict[Size, dict[str, Any]] = {
    "tiny": {"blocks": (3, 3, 9, 3), "widths": (96, 192, 384, 768), "recipe_drop_path": 0.1},
    "small": {"blocks": (3, 3, 27, 3), "widths": (96, 192, 384, 768), "recipe_drop_path": 0.4},
    "base": {"blocks": (3, 3, 27, 3), "widths": (128, 256, 512, 1024), "recipe_drop_path": 0.5},
    "large": {"blocks": (3, 3, 27, 3), "widths": (192, 384, 768, 1536), "recipe_drop_path": 0.5},
}


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels; input and output `[N, C, H, W]`. Does not copy channels-last input."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def _downsample(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Sequential:
    """Norm and a 2×2 convolution of stride 2. With stride 1, the convolution has `dilation` instead, so that it
    computes the values of the strided network at more positions."""
    halve = nn.Sequential()
    halve.add_module("0", LayerNorm2d(in_channels, eps=1e-6))
    if stride == 1:
        halve.add_module("pad", nn.ZeroPad2d((0, dilation, 0, dilation)))
    halve.add_module("1", nn.Conv2d(in_channels, out_channels, 2, stride, dilation=1 if stride > 1 else dilation))
    return halve


class ConvNeXtBlock(nn.Module):
    """7×7 depthwise convolution, norm, 1×1 convolution to `4 · width` channels, GELU, 1×1 convolution, layer scale.

    Figure 4 of the paper. Input and output are `[N, width, H, W]`. The 1×1 convolutions are linear layers, as in the
    authors' code.

    Args:
        width: number of channels.
        drop: stochastic depth rate, see `drop_path`.
        dilation: dilation of the depthwise convolution.
    """

    def __init__(self, width: int, drop: float, dilation: int = 1):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3 * dilation, dilation=dilation, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.drop_path = make_drop_path(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + self.drop_path(y.permute(0, 3, 1, 2))


@BACKBONES.register_module()
class ConvNeXt(StagedBackbone):
    """ConvNeXt: computes the feature maps in `out` from normalized images `[N, in_channels, H, W]`.

    c2, c3, c4 and c5 have strides 4, 8, 16 and 32.

    Args:
        size: "tiny", "small", "base" or "large".
        out, in_channels, frozen_stages, checkpointing: see `StagedBackbone`.
        out_norm: whether to apply a LayerNorm to every output feature map, as in the paper's detectors. ImageNet
            classifiers have a LayerNorm after pooling instead (`ClassificationHead(norm="LN")`).
        output_stride: 32, 16 or 8, see `STRIDES_AND_DILATIONS`.
        drop_path: stochastic depth rate of the last block, see `drop_rates`; `SIZES` has the rates for ImageNet.

    Raises:
        ConfigError: see `StagedBackbone`.
    """

    maps = ("c2", "c3", "c4", "c5")

    def __init__(
        self,
        size: Size,
        *,
        out: MapNames = ("c2", "c3", "c4", "c5"),
        in_channels: PositiveInt = 3,
        frozen_stages: int = -1,
        output_stride: Literal[8, 16, 32] = 32,
        out_norm: bool = False,
        drop_path: ProperFraction = 0.0,
        checkpointing: bool = False,
    ):
        super().__init__(
            f"ConvNeXt-{size}",
            out=out,
            in_channels=in_channels,
            frozen_stages=frozen_stages,
            checkpointing=checkpointing,
        )
        blocks, widths = SIZES[size]["blocks"], SIZES[size]["widths"]
        strides, dilations = STRIDES_AND_DILATIONS[output_stride]
        drops = iter(drop_rates(drop_path, sum(blocks)))
        stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], 4, 4), LayerNorm2d(widths[0], eps=1e-6))
        self.add(0, stem=stem)
        stride = 4
        for i, (count, width) in enumerate(zip(blocks, widths)):
            if not self.needs(i + 1):
                break
            if i:
                halve = _downsample(widths[i - 1], width, strides[i], dilations[i - 1])
                downsample: dict[str, Any] = {f"downsample{i + 1}": halve}
                self.add(i + 1, **downsample)
                stride *= strides[i]
            stage = Stage(*(ConvNeXtBlock(width, next(drops), dilations[i]) for _ in range(count)))
            self.add(i + 1, FeatureSpec(width, stride), **{f"layer{i + 1}": stage})
        self.out_norm = nn.ModuleDict()
        if out_norm:
            self.out_norm.update(
                {name: LayerNorm2d(spec.channels, eps=1e-6) for name, spec in self.out_features.items()}
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = super().forward(images)
        return {name: self.out_norm[name](x) for name, x in maps.items()} if self.out_norm else maps


BACKBONES.register_variants(
    {
        f"convnext_{size}": {
            "type": "ConvNeXt",
            "size": size,
            "default_weights": f"torchvision://convnext_{size}/IMAGENET1K_V1",
        }
        for size in SIZES
    }
)
