"""FCN head (Long et al. 2015): convolutions on one feature map. PSPNet's auxiliary head is an FCN head on c4."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chordate.arguments import NonNegativeInt, PositiveInt, ProperFraction
from chordate.contracts import FeatureSpec
from chordate.heads.semantic_head import Losses, SemanticHead, select_level
from chordate.ops.convolutions import conv_norm_relu, conv_tower
from chordate.ops.norms import Norm
from chordate.registry import HEADS


@HEADS.register_module()
class FCNHead(SemanticHead):
    """Segmentation head of `convs` 3×3 convolutions with norm and ReLU, dropout, and a 1×1 convolution to class logits.

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes.
        level: name of the input feature map; None for the coarsest.
        convs: number of 3×3 convolutions.
        channels: number of output channels of each 3×3 convolution; None for a quarter of the feature map's channels.
        dilation: dilation of these 3×3 convolutions.
        norm: norm after each 3×3 convolution, see `make_norm`.
        concatenate: whether a further 3×3 convolution follows, whose input is the head's input concatenated with the
            output of the other convolutions, as in MMSegmentation's FCN.
        dropout, losses: see `SemanticHead`.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        level: str | None = None,
        convs: NonNegativeInt = 1,
        channels: PositiveInt | None = None,
        dilation: PositiveInt = 1,
        norm: Norm = "BN",
        concatenate: bool = False,
        dropout: ProperFraction = 0.1,
        losses: Losses | None = None,
    ):
        chosen, spec = select_level(in_features, level, "FCNHead")
        width = channels or max(1, spec.channels // 4)
        super().__init__(width if convs else spec.channels, num_classes, dropout, losses)
        self.level = chosen
        self.convs = conv_tower(spec.channels, width, convs, norm, dilation=dilation)
        self.concatenated: nn.Module | None = None
        if concatenate:
            self.concatenated = conv_norm_relu(spec.channels + self.channels, self.channels, norm, kernel=3)

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        x = maps[self.level]
        y = self.convs(x)
        return y if self.concatenated is None else self.concatenated(torch.cat([x, y], dim=1))
