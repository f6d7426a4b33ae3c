"""U-Net's decoder (Ronneberger et al. 2015): merges all feature maps into one at the image's resolution."""

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
    """From the coarsest map upwards: ×2 upsampling (nearest neighbor), concatenation with the backbone's map of that
    stride if there is one, and two 3×3 convolutions with norm and ReLU (figure 1, with padded convolutions).

    The only output is "p0", with stride 1. Sizes that are no multiple of a stride are cropped to the finer map's.

    Args:
        in_features: maps of the backbone.
        channels: number of channels after each upsampling, coarse to fine, down to stride 1.
        inputs: the backbone maps to use, fine to coarse; None for all.
        norm: after each convolution, see `make_norm`.

    Raises:
        ConfigError: two maps have the same stride, as in a dilated backbone, or `channels` is too short.
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
                f"UNet: maps must differ in stride, got {strides}; leave output_stride of the backbone out"
            )
        stride = max(by_stride)
        self.coarsest = by_stride[stride]
        doublings = stride.bit_length() - 1
        if len(channels) < doublings:
            raise ConfigError(
                f"UNet: channels must have {doublings} entries, one per doubling from stride {stride} to 1; "
                f"got {list(channels)}"
            )
        self.skips: list[str | None] = []  # per block, the backbone's map that is concatenated
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
