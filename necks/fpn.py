"""FPN neck (Lin et al. 2017, Feature Pyramid Networks for Object Detection, section 3)."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonEmpty, PositiveInt
from chordate.contracts import FeatureSpec, Neck, select
from chordate.errors import ConfigError
from chordate.ops.convolutions import xavier_init
from chordate.ops.norms import ConvNorm, Norm, make_norm
from chordate.registry import NECKS


@NECKS.register_module()
class FPN(Neck):
    """Computes the feature pyramid p2 … p5, and optionally coarser levels, from the backbone's feature maps c2 … c5.

    From coarse to fine, each feature map is passed through a 1×1 convolution, and the previous sum, upsampled (nearest
    neighbor), is added. Each sum is passed through a 3×3 convolution. `pN` has the same height and width as `cN`.

    Args:
        in_features: specs of the backbone's feature maps.
        channels: number of channels of every level.
        inputs: names of the feature maps to use, fine to coarse; None for all of stride 4 and coarser.
        extra: how to compute levels that are coarser than the backbone's feature maps, each half the size of the level
            before. "pool" adds one level (p6) by subsampling the last level (p5; the paper's footnote 2). The name of
            the last input ("c5") or of the last level ("p5") adds two levels (p6, p7) by 3×3 convolutions of stride 2,
            starting from this feature map (Lin et al. 2017, Focal Loss, section 4). None adds no levels.
        extra_relu: whether a ReLU comes before the second of these convolutions (footnote 2 of the Focal Loss paper,
            Detectron2, torchvision); MMDetection has none by default.
        norm: norm after the 1×1 and 3×3 convolutions, but not in extra levels, see `make_norm`.

    Raises:
        ConfigError: the backbone does not output a feature map of `inputs`, or no feature map of stride 4 or coarser if
            `inputs` is None; `inputs` are not named c1, c2, … or not ordered fine to coarse; or `extra` is none of the
            above.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        channels: PositiveInt = 256,
        *,
        inputs: Annotated[Sequence[str], NonEmpty] | None = None,
        extra: str | None = "pool",
        extra_relu: bool = True,
        norm: Norm = None,
    ):
        super().__init__()
        if inputs is None:
            inputs = [name for name, spec in in_features.items() if spec.stride >= 4]
        specs = select(in_features, inputs, "FPN")
        self.inputs = tuple(specs)
        if not specs:
            raise ConfigError(
                "FPN: no inputs; unless inputs are set, the backbone must output "
                "at least one feature map of stride 4 or coarser"
            )
        for name in specs:
            if not re.fullmatch(r"c\d+", name):
                raise ConfigError(f'FPN: inputs must be named after their stage (c1 … c5), got "{name}"')
        strides = [spec.stride for spec in specs.values()]
        if strides != sorted(strides):
            raise ConfigError(
                f"FPN: inputs must be ordered fine to coarse, got {list(self.inputs)} with strides {strides}"
            )

        def make_conv(in_channels: int, kernel: int) -> ConvNorm:
            layer = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=norm is None)
            return ConvNorm(layer, *([] if norm is None else [make_norm(norm, channels)]))

        levels = [f"p{name[1:]}" for name in specs]
        self.lateral = nn.ModuleDict({name: make_conv(spec.channels, 1) for name, spec in specs.items()})
        self.output = nn.ModuleDict({level: make_conv(channels, 3) for level in levels})
        self.out_features = dict(zip(levels, (FeatureSpec(channels, stride) for stride in strides), strict=True))

        last_in, last_out = self.inputs[-1], levels[-1]
        if extra not in (None, "pool", last_in, last_out):
            raise ConfigError(f'FPN: extra must be "pool", "{last_in}", "{last_out}" or None, got "{extra}"')
        self.extra_from = extra
        self.extra_relu = extra_relu
        self.extra = nn.ModuleDict()
        source_channels = specs[last_in].channels if extra == last_in else channels
        number, stride = int(last_out[1:]), strides[-1]
        for i in range({None: 0, "pool": 1}.get(extra, 2)):
            level = f"p{number + 1 + i}"
            stride *= 2
            self.out_features[level] = FeatureSpec(channels, stride)
            if extra == "pool":
                self.extra[level] = nn.MaxPool2d(1, 2)
            else:
                self.extra[level] = nn.Conv2d(source_channels, channels, 3, 2, padding=1)
                source_channels = channels

        xavier_init(self)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        merged: Tensor | None = None
        pyramid: dict[str, Tensor] = {}
        for name in reversed(self.inputs):
            lateral = self.lateral[name](features[name])
            if merged is not None:
                lateral = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            merged = lateral
            level = f"p{name[1:]}"
            pyramid[level] = self.output[level](merged)

        last = self.inputs[-1]
        x = features[last] if self.extra_from == last else pyramid[f"p{last[1:]}"]
        for i, (level, layer) in enumerate(self.extra.items()):
            x = pyramid[level] = layer(F.relu(x) if i > 0 and self.extra_relu else x)
        return {level: pyramid[level] for level in self.out_features}
