"""Heads of Panoptic-DeepLab (Cheng et al. 2020): a semantic decoder, and an instance decoder (centers and offsets).

Layers, channels, initial weights and losses are those of Detectron2's project (DSConv), where it agrees with the paper.
The project differs from the paper in three points. Its center branch has two plain 3×3 convolutions before the last one
(`center_separable=False`). ASPP's pooled branch has no norm (`pooling_norm=False`), and averages windows of the size of
the training crop (`pooling_size`). Its semantic loss averages the hardest 20 % of all pixels, with a loss of 0 for
unlabeled pixels (`CrossEntropy(hard_fraction=0.2, count_ignored=True)`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonEmpty, NonNegativeFloat, PositiveFloat, PositiveInt, ProperFraction
from chordate.contracts import FeatureSpec, select
from chordate.errors import ConfigError
from chordate.heads.deeplab import ASPP, PoolingSize, Rates
from chordate.heads.semantic_head import Losses, SemanticHead
from chordate.ops.boxes import at_least_float32
from chordate.ops.convolutions import conv_norm_relu, xavier_init
from chordate.ops.instance_centers import center_targets
from chordate.ops.losses import masked_mean
from chordate.ops.norms import Norm
from chordate.registry import HEADS
from chordate.structures import IGNORED, PanopticTargets

LowChannels = Annotated[Sequence[PositiveInt], NonEmpty]


class DeepLabDecoder(nn.Module):
    """Decoder of Panoptic-DeepLab (section 3.1): ASPP, and one fusion step per finer feature map.

    A fusion step upsamples the output of ASPP or of the previous step to the size of the finer map, concatenates the
    finer map (with its channels reduced by a 1×1 convolution), and applies `conv5x5`.

    Args:
        in_features: specs of the available feature maps.
        level: name of ASPP's input feature map; None for the coarsest.
        low_levels: names of the finer feature maps, coarse to fine; None for the maps finer than `level` with a stride
            of at least 4 and below 16.
        low_channels: for each finer feature map, the number of channels to which it is reduced.
        channels: number of output channels.
        aspp_channels, rates, norm, dropout, pooling_norm, pooling_size: see `heads.deeplab.ASPP`.
        separable: whether ASPP's 3×3 convolutions are depthwise separable, and `separable` of `conv5x5`.

    Raises:
        ConfigError: a feature map does not exist, or `low_channels` does not have one entry per finer feature map.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        level: str | None,
        low_levels: Sequence[str] | None,
        low_channels: Sequence[int],
        channels: int,
        aspp_channels: int,
        rates: Rates | None,
        norm: Norm,
        dropout: float,
        separable: bool,
        pooling_norm: bool,
        pooling_size: PoolingSize | None,
    ):
        super().__init__()
        owner = "PanopticDeepLab"
        ((self.level, coarse),) = select(in_features, [level or list(in_features)[-1]], owner).items()
        if low_levels is None:
            finer = [name for name, spec in in_features.items() if 4 <= spec.stride < min(16, coarse.stride)]
            low_levels = finer[::-1]
        specs = select(in_features, low_levels, owner)
        if len(low_channels) != len(specs):
            named = ", ".join(specs) or "none"
            remedy = (
                "" if len(specs) >= len(low_channels) else ', or output more maps (backbone: out=["c2", "c3", "c5"])'
            )
            raise ConfigError(
                f"{owner}: low_channels has {len(low_channels)} entries for {len(specs)} finer feature maps ({named}); "
                f"give one per map{remedy}"
            )
        self.low_levels = list(low_levels)
        self.aspp = ASPP(coarse, rates, aspp_channels, separable, norm, dropout, 1, pooling_norm, pooling_size)
        plain = [self.aspp.branches[0], self.aspp.pooled, self.aspp.project] if separable else [self.aspp]
        for part in plain:
            xavier_init(part)
        self.reduce, self.fuse = nn.ModuleList(), nn.ModuleList()
        width = aspp_channels
        for name, reduced in zip(self.low_levels, low_channels):
            self.reduce.append(conv_norm_relu(specs[name].channels, reduced, norm, init=xavier_init))
            self.fuse.append(conv5x5(width + reduced, channels, channels, norm, separable))
            width = channels
        self.out_channels = width

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Compute the output `[N, channels, h, w]`, at the size of the finest feature map that is used."""
        x = self.aspp(maps[self.level])
        for name, reduce, fuse in zip(self.low_levels, self.reduce, self.fuse):
            low = reduce(maps[name])
            x = F.interpolate(x, low.shape[-2:], mode="bilinear", align_corners=False)
            x = fuse(torch.cat([x, low], dim=1))
        return x


@HEADS.register_module()
class PanopticDeepLabHead(SemanticHead):
    """The semantic head of Panoptic-DeepLab. The defaults are those of Detectron2's project for ResNet-50.

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes.
        level, low_levels, low_channels, channels, aspp_channels, rates, norm: see `DeepLabDecoder`.
        aspp_dropout: dropout probability of ASPP's output.
        separable, pooling_norm, pooling_size: see `DeepLabDecoder`.
        dropout, losses: see `SemanticHead`. The default loss is the cross-entropy of the hardest 20 % of the pixels;
            the model passes it larger weights for the pixels of small instances.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        level: str | None = None,
        low_levels: Sequence[str] | None = None,
        low_channels: LowChannels = (64, 32),
        channels: PositiveInt = 256,
        aspp_channels: PositiveInt = 256,
        rates: Rates | None = None,
        norm: Norm = "BN",
        aspp_dropout: ProperFraction = 0.1,
        dropout: ProperFraction = 0.0,
        losses: Losses | None = None,
        separable: bool = True,
        pooling_norm: bool = True,
        pooling_size: PoolingSize | None = None,
    ):
        super().__init__(channels, num_classes, dropout, losses or [{"type": "CrossEntropy", "hard_fraction": 0.2}])
        decoder = (level, low_levels, low_channels, channels, aspp_channels, rates, norm, aspp_dropout, separable)
        self.decoder = DeepLabDecoder(in_features, *decoder, pooling_norm, pooling_size)
        width = self.decoder.out_channels
        self.conv = conv5x5(width, width, channels, norm, separable)
        _init_output(self.logits)

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        return self.conv(self.decoder(maps))


@HEADS.register_module()
class CenterOffsetHead(nn.Module):
    """The instance head of Panoptic-DeepLab (a `CenterHead`): predicts a heatmap of centers, and offsets to them.

    Args:
        in_features: specs of the available feature maps.
        level, low_levels, low_channels, channels, aspp_channels, rates, norm: see `DeepLabDecoder`.
        head_channels: number of channels before the last convolution of each output.
        aspp_dropout: dropout probability of ASPP's output.
        separable, pooling_norm, pooling_size: see `DeepLabDecoder`; `separable` also applies to the offset branch.
        center_separable: `separable` of `conv5x5` in the center branch.
        sigma: standard deviation of the Gaussians in the target heatmap, in pixels of the batch.
        center_loss_weight: weight of the heatmap's MSE loss (section 3.1).
        offset_loss_weight: weight of the offsets' L1 loss (section 3.1).
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        level: str | None = None,
        low_levels: Sequence[str] | None = None,
        low_channels: LowChannels = (32, 16),
        channels: PositiveInt = 128,
        aspp_channels: PositiveInt = 256,
        head_channels: PositiveInt = 32,
        rates: Rates | None = None,
        norm: Norm = "BN",
        aspp_dropout: ProperFraction = 0.1,
        sigma: PositiveFloat = 8.0,
        center_loss_weight: NonNegativeFloat = 200.0,
        offset_loss_weight: NonNegativeFloat = 0.01,
        separable: bool = True,
        center_separable: bool = True,
        pooling_norm: bool = True,
        pooling_size: PoolingSize | None = None,
    ):
        super().__init__()
        self.sigma = sigma
        self.center_loss_weight, self.offset_loss_weight = center_loss_weight, offset_loss_weight
        decoder = (level, low_levels, low_channels, channels, aspp_channels, rates, norm, aspp_dropout, separable)
        self.decoder = DeepLabDecoder(in_features, *decoder, pooling_norm, pooling_size)
        width = self.decoder.out_channels
        center = conv5x5(width, width, head_channels, norm, center_separable)
        self.center = nn.Sequential(center, nn.Conv2d(head_channels, 1, 1))
        offset = conv5x5(width, width, head_channels, norm, separable)
        self.offset = nn.Sequential(offset, nn.Conv2d(head_channels, 2, 1))
        for last in (self.center[1], self.offset[1]):
            _init_output(last)

    def forward(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Predict a heatmap `[N, 1, h, w]` and offsets `[N, 2, h, w]` (y, x) in cells, at least float32."""
        x = self.decoder(maps)
        return at_least_float32(self.center(x)), at_least_float32(self.offset(x))

    def resize(self, outputs: tuple[Tensor, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Resize the outputs to images of `size` (height, width): heatmap `[N, H, W]`, and offsets `[N, 2, H, W]` in
        pixels."""
        heatmap, offsets = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in outputs)
        y, x = offsets.unbind(1)
        # Multiply by Python floats, since a tensor of the two strides would need a host-to-device copy.
        strides = [pixels / cells for pixels, cells in zip(size, outputs[1].shape[-2:])]
        return heatmap[:, 0], torch.stack([y * strides[0], x * strides[1]], dim=1)

    def loss(self, outputs: tuple[Tensor, Tensor], targets: PanopticTargets) -> dict[str, Tensor]:
        """Compute the losses `center` and `offset`.

        Crowds and pixels without a class do not contribute to the losses, as in Detectron2's project.
        """
        things = targets.instances
        truth = center_targets(targets.slots, things.valid & ~things.crowd, self.sigma)
        heatmap, offsets = self.resize(outputs, (targets.slots.shape[1], targets.slots.shape[2]))
        is_crowd = (targets.slots != IGNORED) & ~truth.inside
        squares = (heatmap - truth.heatmap) ** 2
        distances = (offsets - truth.offsets).abs().sum(1)
        return {
            "center": self.center_loss_weight * masked_mean(squares, (targets.labels != IGNORED) & ~is_crowd),
            "offset": self.offset_loss_weight * masked_mean(distances, truth.inside),
        }


def conv5x5(in_channels: int, hidden: int, channels: int, norm: Norm, separable: bool) -> nn.Sequential:
    """Two convolutions that together see 5×5 cells, each followed by norm and ReLU.

    Args:
        hidden: number of channels between the two, if they are not separable.
        separable: whether they are a depthwise 5×5 and a 1×1 convolution, as in the paper, or two plain 3×3
            convolutions, as in Detectron2's models without DSConv.
    """
    if not separable:
        first = conv_norm_relu(in_channels, hidden, norm, kernel=3, init=xavier_init)
        return nn.Sequential(first, conv_norm_relu(hidden, channels, norm, kernel=3, init=xavier_init))
    depthwise = conv_norm_relu(in_channels, in_channels, norm, kernel=5, groups=in_channels)
    return nn.Sequential(depthwise, conv_norm_relu(in_channels, channels, norm))


def _init_output(conv: nn.Module) -> None:
    nn.init.normal_(conv.weight, std=0.001)  # type: ignore[arg-type]
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
