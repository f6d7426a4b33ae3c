"""Heads of DeepLab v2, v3 and v3+: atrous spatial pyramid pooling (ASPP), in v3+ followed by a decoder."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonEmpty, PositiveInt, ProperFraction
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.head_contracts import ClassRows
from chordate.heads.semantic_head import Losses, SemanticHead, select_level
from chordate.ops.convolutions import conv_norm_relu
from chordate.ops.norms import Norm
from chordate.registry import HEADS

Rates = Annotated[Sequence[PositiveInt], NonEmpty]
ProjectKernel = Literal[1, 3]
PoolingSize = tuple[PositiveInt, PositiveInt]
RATES = (6, 12, 18)  # dilations at output stride 16 (Chen et al. 2017, DeepLab v3, section 3.3)
RATES_V2 = (6, 12, 18, 24)  # dilations at output stride 8: ASPP-L (Chen et al. 2018, DeepLab, section 4.1)


@HEADS.register_module()
class DeepLabV2Head(SemanticHead):
    """Segmentation head of DeepLab v2: the logits are the sum of the outputs of atrous 3×3 convolutions (ASPP).

    Chen et al. 2018, DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, section 3.2.

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes.
        level: name of the input feature map; None for the coarsest.
        rates: dilations of the convolutions; None for 6, 12, 18 and 24 at stride 8, halved at stride 16.
        dropout, losses: see `SemanticHead`.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        level: str | None = None,
        rates: Rates | None = None,
        dropout: ProperFraction = 0.0,
        losses: Losses | None = None,
    ):
        chosen, spec = select_level(in_features, level, "DeepLabV2Head")
        super().__init__(spec.channels, num_classes, dropout, losses)
        self.level = chosen
        rates = rates or [max(1, rate * 8 // spec.stride) for rate in RATES_V2]
        convs = [nn.Conv2d(spec.channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates]
        for conv in convs:
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.logits = ConvSum(convs)  # replaces the 1×1 convolution of SemanticHead
        self.class_rows = {f"logits.{number}": ClassRows() for number in range(len(rates))}

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        return maps[self.level]


class ConvSum(nn.ModuleList):
    """Applies several convolutions to the same feature map `[N, C, h, w]`, and sums their outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([conv(x) for conv in self]).sum(dim=0)


@HEADS.register_module()
class DeepLabV3Head(SemanticHead):
    """Segmentation head of DeepLab v3: ASPP and a 3×3 convolution.

    Chen et al. 2017, Rethinking Atrous Convolution for Semantic Image Segmentation, section 3.3. In torchvision, ASPP
    ends with a 1×1 convolution, and a 3×3 convolution follows; in MMSegmentation, ASPP itself ends with the 3×3
    convolution.

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes.
        level: name of the input feature map; None for the coarsest.
        rates: dilations of the atrous convolutions; None for 6, 12 and 18 at stride 16, doubled at stride 8.
        channels: number of output channels of every convolution.
        separable: whether the atrous convolutions are depthwise separable.
        norm: norm after each convolution, see `make_norm`.
        project_kernel: kernel size of the convolution that ends ASPP: 1 as in torchvision, or 3 as in MMSegmentation;
            with 3, no further convolution follows.
        final_conv: whether a 3×3 convolution follows an ASPP with `project_kernel` 1; False in Detectron2.
        pooling_norm, pooling_size: see `ASPP`.
        aspp_dropout: dropout probability of ASPP's output.
        dropout, losses: see `SemanticHead`.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        level: str | None = None,
        rates: Rates | None = None,
        channels: PositiveInt = 256,
        separable: bool = False,
        norm: Norm = "BN",
        project_kernel: ProjectKernel = 1,
        final_conv: bool = True,
        pooling_norm: bool = True,
        pooling_size: PoolingSize | None = None,
        aspp_dropout: ProperFraction = 0.5,
        dropout: ProperFraction = 0.0,
        losses: Losses | None = None,
    ):
        super().__init__(channels, num_classes, dropout, losses)
        self.level, spec = select_level(in_features, level, "DeepLabV3Head")
        pooling = (pooling_norm, pooling_size)
        self.aspp = ASPP(spec, rates, channels, separable, norm, aspp_dropout, project_kernel, *pooling)
        has_conv = final_conv and project_kernel == 1
        self.conv = _conv3x3(channels, channels, 1, False, norm) if has_conv else nn.Identity()

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        return self.conv(self.aspp(maps[self.level]))


@HEADS.register_module()
class DeepLabV3PlusHead(SemanticHead):
    """Segmentation head of DeepLab v3+: ASPP, and a decoder that adds detail from a finer feature map.

    Chen et al. 2018, Encoder-Decoder with Atrous Separable Convolution, section 3.1.

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes.
        level: name of ASPP's input feature map; None for the coarsest.
        low_level: name of the finer feature map; None for the finest with a stride of 4 or more.
        low_channels: number of channels to which a 1×1 convolution reduces the finer feature map.
        rates, channels, norm, aspp_dropout: see `DeepLabV3Head`.
        separable: whether the atrous convolutions and the decoder's 3×3 convolutions are depthwise separable.
        project_kernel: kernel size of the convolution that ends ASPP: 1 as in the paper, or 3 as in MMSegmentation.
        pooling_norm, pooling_size: see `ASPP`.
        dropout, losses: see `SemanticHead`.

    Raises:
        ConfigError: a feature map does not exist, or `level` and `low_level` are the same feature map.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        level: str | None = None,
        low_level: str | None = None,
        low_channels: PositiveInt = 48,
        rates: Rates | None = None,
        channels: PositiveInt = 256,
        separable: bool = True,
        norm: Norm = "BN",
        project_kernel: ProjectKernel = 1,
        pooling_norm: bool = True,
        pooling_size: PoolingSize | None = None,
        aspp_dropout: ProperFraction = 0.5,
        dropout: ProperFraction = 0.0,
        losses: Losses | None = None,
    ):
        super().__init__(channels, num_classes, dropout, losses)
        self.level, spec = select_level(in_features, level, "DeepLabV3PlusHead")
        finer = next((name for name, other in in_features.items() if other.stride >= 4), None)
        self.low_level, low = select_level(in_features, low_level or finer, "DeepLabV3PlusHead")
        if self.low_level == self.level:
            raise ConfigError(
                f'DeepLabV3PlusHead: level "{self.level}" and low_level "{self.low_level}" are the same feature map; '
                'low_level must be finer, for example "c2" (backbone: out=["c2", "c5"])'
            )
        pooling = (pooling_norm, pooling_size)
        self.aspp = ASPP(spec, rates, channels, separable, norm, aspp_dropout, project_kernel, *pooling)
        self.low = conv_norm_relu(low.channels, low_channels, norm)
        self.decoder = nn.Sequential(
            _conv3x3(channels + low_channels, channels, 1, separable, norm),
            _conv3x3(channels, channels, 1, separable, norm),
        )

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        low = self.low(maps[self.low_level])
        x = F.interpolate(self.aspp(maps[self.level]), low.shape[-2:], mode="bilinear", align_corners=False)
        return self.decoder(torch.cat([x, low], dim=1))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling.

    A 1×1 convolution, atrous 3×3 convolutions and global average pooling run in parallel; their outputs are
    concatenated and projected by a convolution.

    Args:
        spec: spec of the input feature map `[N, C, h, w]`.
        rates, channels, separable, norm: see `DeepLabV3Head`.
        dropout: dropout probability of the output.
        project_kernel: kernel size of the last convolution.
        pooling_norm: whether a norm follows the convolution after the pooling; False in Detectron2.
        pooling_size: height and width, in cells, of the windows that are averaged at each position, instead of the
            whole feature map. Detectron2's models average windows of the size of their training crops.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        rates: Rates | None,
        channels: int,
        separable: bool,
        norm: Norm,
        dropout: float,
        project_kernel: ProjectKernel = 1,
        pooling_norm: bool = True,
        pooling_size: PoolingSize | None = None,
    ):
        super().__init__()
        rates = rates or [max(1, rate * 16 // spec.stride) for rate in RATES]
        self.branches = nn.ModuleList([conv_norm_relu(spec.channels, channels, norm)])
        self.branches.extend(_conv3x3(spec.channels, channels, rate, separable, norm) for rate in rates)
        self.pooled = conv_norm_relu(spec.channels, channels, norm if pooling_norm else None)
        self.pooling_size = pooling_size
        self.project = conv_norm_relu(channels * (len(self.branches) + 1), channels, norm, kernel=project_kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output `[N, channels, h, w]` for a feature map `[N, C, h, w]`."""
        if self.pooling_size is None:
            pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        else:
            window = [min(sides) for sides in zip(self.pooling_size, x.shape[-2:])]
            pooled = self.pooled(F.avg_pool2d(x, window, stride=1))
            pooled = F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False)
        return self.dropout(self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1)))


def _conv3x3(in_channels: int, channels: int, rate: int, separable: bool, norm: Norm) -> nn.Sequential:
    """A 3×3 convolution with norm and ReLU. If `separable`, a depthwise 3×3 and a 1×1 convolution, each with norm and
    ReLU (DeepLab v3+, section 3.2)."""
    if not separable:
        return conv_norm_relu(in_channels, channels, norm, kernel=3, dilation=rate)
    depthwise = conv_norm_relu(in_channels, in_channels, norm, kernel=3, dilation=rate, groups=in_channels)
    return nn.Sequential(depthwise, conv_norm_relu(in_channels, channels, norm))
