"""The decoder of U-Net (Ronneberger et al. 2015): merges the backbone's feature maps into one with stride 1."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonEmpty, PositiveInt
from chordate.contracts import FeatureSpec, Neck, select
from chordate.errors import ConfigError
from chordate.ops.convolutions import conv_tower
from chordate.ops.norms import Norm
from chordate.registry import NECKS


@NECKS.register_module()
class UNet(Neck):
    """Decoder of U-Net (figure 1, with padded convolutions); its output is the feature map "p0" with stride 1.

    Each block upsamples by 2 (nearest neighbor), concatenates the backbone's feature map of the resulting stride if
    there is one, and applies two 3×3 convolutions with norm and ReLU. Before concatenation, the upsampled feature map
    is cropped to the size of the backbone's.

    Args:
        in_features: specs of the backbone's feature maps.
        channels: number of output channels of each block, ordered coarse to fine; one block per halving of the
            stride, from the coarsest stride to 1. Surplus entries at the end are not used.
        inputs: names of the backbone's feature maps to use; None for all.
        norm: norm after each convolution, see `make_norm`.

    Raises:
        ConfigError: the backbone does not output a feature map of `inputs`, two feature maps have the same stride, as
            in a dilated backbone, or `channels` is too short.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        channels: Annotated[Sequence[PositiveInt], NonEmpty] = (256, 128, 64, 32, 16),
        *,
        inputs: Annotated[Sequence[str], NonEmpty] | None = None,
        norm: Norm = "BN",
    ):
        super().__init__()
        specs = select(in_features, inputs or list(in_features), "UNet")
        by_stride = {spec.stride: name for name, spec in specs.items()}
        if len(by_stride) < len(specs):
            strides = ", ".join(f"{name} {spec.stride}" for name, spec in specs.items())
            raise ConfigError(
                f"UNet: feature maps must differ in stride, got {strides}; remove output_stride from the backbone"
            )
        stride = max(by_stride)
        self.coarsest = by_stride[stride]
        doublings = stride.bit_length() - 1
        if len(channels) < doublings:
            raise ConfigError(
                f"UNet: channels must have at least {doublings} entries, one per halving of the stride from {stride} "
                f"to 1; got {list(channels)}"
            )
        self.skips: list[str | None] = []  # for each block, the name of the feature map that is concatenated, or None
        self.blocks = nn.ModuleList()
        width = specs[self.coarsest].channels
        for block_channels in channels[:doublings]:
            stride //= 2
            skip = by_stride.get(stride)
            self.skips.append(skip)
            self.blocks.append(conv_tower(width + (specs[skip].channels if skip else 0), block_channels, 2, norm))
            width = block_channels
        self.out_features = {"p0": FeatureSpec(width, 1)}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        x = features[self.coarsest]
        for skip, block in zip(self.skips, self.blocks, strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            if skip is not None:
                finer = features[skip]
                x = torch.cat([x[..., : finer.shape[-2], : finer.shape[-1]], finer], dim=1)
            x = block(x)
        return {"p0": x}
