"""PSPNet's head: pyramid pooling (Zhao et al. 2017, Pyramid Scene Parsing Network)."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonEmpty, PositiveInt, ProperFraction
from chordate.contracts import FeatureSpec
from chordate.heads.semantic_head import Losses, SemanticHead, select_level
from chordate.ops.convolutions import conv_norm_relu, conv_tower
from chordate.ops.norms import Norm
from chordate.registry import HEADS


@HEADS.register_module()
class PSPHead(SemanticHead):
    """Segmentation head of PSPNet (section 3.2).

    Averages the feature map over the bins of several grids (each average followed by a 1×1 convolution), upsamples the
    results, concatenates them with the feature map, and applies a 3×3 convolution.

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes.
        level: name of the input feature map; None for the coarsest.
        grids: number of bins per side of each grid.
        channels: number of output channels of the 3×3 convolution.
        norm: norm after each convolution, see `make_norm`.
        dropout, losses: see `SemanticHead`.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        level: str | None = None,
        grids: Annotated[Sequence[PositiveInt], NonEmpty] = (1, 2, 3, 6),
        channels: PositiveInt = 512,
        norm: Norm = "BN",
        dropout: ProperFraction = 0.1,
        losses: Losses | None = None,
    ):
        super().__init__(channels, num_classes, dropout, losses)
        self.level, spec = select_level(in_features, level, "PSPHead")
        width = max(1, spec.channels // len(grids))
        self.grids = tuple(grids)
        self.branches = nn.ModuleList([conv_norm_relu(spec.channels, width, norm) for _ in grids])
        self.conv = conv_tower(spec.channels + width * len(grids), channels, 1, norm)

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        x = maps[self.level]
        pooled = [branch(F.adaptive_avg_pool2d(x, grid)) for grid, branch in zip(self.grids, self.branches)]
        resized = [F.interpolate(p, x.shape[-2:], mode="bilinear", align_corners=False) for p in pooled]
        return self.conv(torch.cat([x, *resized], dim=1))
