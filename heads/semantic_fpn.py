"""The semantic head of Panoptic FPN (Kirillov et al. 2019, section 3): sums the levels of a pyramid."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonEmpty, PositiveInt, ProperFraction
from chordate.contracts import FeatureSpec, select
from chordate.heads.semantic_head import Losses, SemanticHead
from chordate.ops.convolutions import conv_tower
from chordate.ops.norms import Norm
from chordate.ops.pooling import pyramid_levels
from chordate.registry import HEADS


@HEADS.register_module()
class SemanticFPNHead(SemanticHead):
    """Segmentation head that upsamples all levels of a feature pyramid to the size of the finest, and sums them.

    The finest level passes through one 3×3 convolution, each coarser level through one or more, each followed by
    bilinear upsampling by 2 (figure 3).

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes.
        levels: names of the feature maps to use; all up to stride 32 by default.
        channels: number of output channels of each convolution.
        norm: norm after each convolution, see `make_norm`.
        dropout, losses: see `SemanticHead`.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        levels: Annotated[Sequence[str], NonEmpty] | None = None,
        channels: PositiveInt = 128,
        norm: Norm = "GN",
        dropout: ProperFraction = 0.0,
        losses: Losses | None = None,
    ):
        super().__init__(channels, num_classes, dropout, losses)
        specs = select(in_features, levels or pyramid_levels(in_features), "SemanticFPNHead")
        finest = min(spec.stride for spec in specs.values())
        self.branches = nn.ModuleDict()
        for name, spec in specs.items():
            doublings = (spec.stride // finest).bit_length() - 1
            convs = [
                conv_tower(spec.channels if step == 0 else channels, channels, 1, norm)
                for step in range(max(1, doublings))
            ]
            self.branches[name] = nn.ModuleList(convs)
        self.finest = next(name for name, spec in specs.items() if spec.stride == finest)

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        size = maps[self.finest].shape[-2:]
        return torch.stack([self._upsample(name, maps[name], size) for name in self.branches]).sum(dim=0)

    def _upsample(self, name: str, x: Tensor, size: torch.Size) -> Tensor:
        """Apply the convolutions of level `name` to `x` `[N, C, h, w]`, and upsample to the finest level's `size`."""
        convs: Any = self.branches[name]
        for number, conv in enumerate(convs, 1):
            x = conv(x)
            if name != self.finest:
                target = size if number == len(convs) else (2 * x.shape[-2], 2 * x.shape[-1])
                x = F.interpolate(x, target, mode="bilinear", align_corners=False)
        return x
