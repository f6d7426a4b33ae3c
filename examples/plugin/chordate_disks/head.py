"""SumHead: a semantic segmentation head that sums the feature maps."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from chordate import HEADS, FeatureSpec
from chordate.arguments import PositiveInt
from chordate.heads.semantic_head import SemanticHead


@HEADS.register_module()
class SumHead(SemanticHead):
    """Projects each feature map to `width` channels, and sums them at the finest resolution.

    Args:
        in_features: specs of the backbone's feature maps.
        num_classes: number of classes of the dataset.
        width: number of channels of the sum.
    """

    def __init__(self, in_features: Mapping[str, FeatureSpec], num_classes: int, width: PositiveInt = 32):
        super().__init__(width, num_classes)
        self.convs = nn.ModuleDict({name: nn.Conv2d(spec.channels, width, 1) for name, spec in in_features.items()})

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        size = next(iter(maps.values())).shape[-2:]
        projected = (conv(maps[name]) for name, conv in self.convs.items())
        return sum(F.interpolate(x, size, mode="bilinear") for x in projected).relu()
