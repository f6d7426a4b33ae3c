"""ResNet 18, 34, 50, 101 and 152 (He et al. 2016, Deep Residual Learning for Image Recognition, table 1)."""

from collections.abc import Sequence

from torch import Tensor, nn

from chordate.backbones.blocks import (
    SHORTCUTS,
    STYLES,
    BasicBlock,
    Bottleneck,
    Norm,
    check_choice,
    conv,
    deep_stem_conv,
    make_stage,
)
from chordate.backbones.freezing import freeze, keep_still
from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.norms import FrozenBatchNorm, make_norm
from chordate.registry import BACKBONES

# Depth: the block, and how many of it in c2, c3, c4 and c5 (table 1).
DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
WIDTHS = (64, 128, 256, 512)
MAPS = ("c1", "c2", "c3", "c4", "c5")
STAGES = ("layer1", "layer2", "layer3", "layer4")  # torchvision's names of what gives c2 … c5

# Output stride: the strides of c2 … c5, and the dilations that make up for the strides taken away.
OUTPUT_STRIDES = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}


@BACKBONES.register_module()
class ResNet(Backbone):
    """Normalised images `[N, in_channels, H, W]` to the maps named in `out`.

    c1 is the stem's output before its max-pool (stride 2), c2 … c5 are the outputs of the four stages.
    Stages after the last map of `out` are not built.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        out: the maps to give, any of c1 … c5.
        in_channels: of the images. 3-channel weights are adapted when they are loaded.
        style: "pytorch" has a bottleneck's stride in its 3×3 convolution, as torchvision's weights expect;
            "caffe" in its first 1×1, as the paper, and Detectron2's MSRA weights.
        shortcut: "A" zero padding, "B" projections where the shape changes, "C" projections everywhere.
        deep_stem: three 3×3 convolutions in place of the 7×7.
        norm: "BN", "SyncBN", "FrozenBN", "GN" or a dict, see `make_norm`.
        frozen_stages: how much of the network is not trained, counted as in MMDetection:
            -1 nothing, 0 the stem, 1 the stem and c2's stage, … 4 everything. A frozen part has no
            gradients, and its BatchNorms keep their running statistics even in training mode.
            Detectron2's `FREEZE_AT=k` is k - 1; torchvision's `trainable_layers=k` is 4 - k.
        output_stride: 32, or 16 or 8 for dense prediction: later strides are replaced by dilation, so that
            the network computes the same values on a finer grid (Chen et al. 2017, DeepLab v3, section 3.1).
        dilations: of c2 … c5, in place of those that `output_stride` asks for; they hold for every block
            of the stage, as in Detectron2 and MMDetection.
        zero_init_last: start each block's last norm at zero, so that the blocks start as identities
            (Goyal et al. 2017, section 5.1).

    Attributes:
        name: "ResNet-50", for messages.
        default_weights: what `pretrained=True` stands for, or None where nobody offers weights.

    Raises:
        ConfigError: a value that is not one of the above.
    """

    def __init__(
        self,
        depth: int,
        *,
        out: Sequence[str] = ("c2", "c3", "c4", "c5"),
        in_channels: int = 3,
        style: str = "pytorch",
        shortcut: str = "B",
        deep_stem: bool = False,
        norm: Norm = "BN",
        frozen_stages: int = -1,
        output_stride: int = 32,
        dilations: Sequence[int] | None = None,
        zero_init_last: bool = False,
    ):
        super().__init__()
        if depth not in DEPTHS:
            raise ConfigError(f"ResNet: depth={depth!r}; known depths: {', '.join(map(str, DEPTHS))}")
        if output_stride not in OUTPUT_STRIDES:
            raise ConfigError(f"ResNet: output_stride={output_stride!r}; it is 32, 16 or 8")
        if dilations is not None and len(dilations) != len(STAGES):
            raise ConfigError(f"ResNet: dilations={list(dilations)!r}; give four numbers, for c2 … c5")
        if frozen_stages not in range(-1, len(STAGES) + 1):
            raise ConfigError(f"ResNet: frozen_stages={frozen_stages!r}; it is -1 (none), 0 (stem) … 4 (everything)")
        check_choice("ResNet style", style, STYLES)
        check_choice("shortcut option", shortcut, SHORTCUTS)
        if not out:
            raise ConfigError("ResNet: out=[]; name at least one map, such as c5")
        for name in out:
            check_choice("ResNet map", name, MAPS)

        block, counts = DEPTHS[depth]
        self.in_channels = in_channels
        self.style = style if block is Bottleneck else "pytorch"  # both are the same for basic blocks
        self.name = f"ResNet-{depth}" + (" (caffe)" if self.style == "caffe" else "")
        plain = shortcut == "B" and not deep_stem and self.style == "pytorch"
        # The weights trained as the papers of this repository train; torchvision's own detectors start there too.
        self.default_weights = f"torchvision://resnet{depth}/IMAGENET1K_V1" if plain else None

        self.conv1 = deep_stem_conv(in_channels, 64, norm) if deep_stem else conv(in_channels, 64, 7, 2)
        self.bn1 = make_norm(norm, 64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        specs = {"c1": FeatureSpec(64, 2)}

        strides, derived = OUTPUT_STRIDES[output_stride]
        channels, total_stride, before = 64, 4, 1
        for i in range(max(MAPS.index(name) for name in out)):
            dilation = derived[i] if dilations is None else dilations[i]
            stage = make_stage(
                block,
                counts[i],
                channels,
                WIDTHS[i],
                stride=strides[i],
                dilation=dilation,
                dilation_before=before if dilations is None else dilation,
                shortcut=shortcut,
                norm=norm,
                style=style,
            )
            self.add_module(STAGES[i], stage)
            channels, total_stride, before = WIDTHS[i] * block.expansion, total_stride * strides[i], dilation
            specs[MAPS[i + 1]] = FeatureSpec(channels, total_stride)
        self.out_features = {name: spec for name, spec in specs.items() if name in out}

        self._init_weights(zero_init_last)
        self.frozen_parts = ("conv1", "bn1", *STAGES)[: frozen_stages + 2 if frozen_stages >= 0 else 0]
        freeze(self, self.frozen_parts)

    def _init_weights(self, zero_init_last: bool) -> None:
        """He et al. 2015 (Delving Deep into Rectifiers), equation 14; norms start as identities."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_last and isinstance(module, BasicBlock | Bottleneck):
                norm = module.last_norm
                if isinstance(norm, nn.Identity | FrozenBatchNorm):
                    raise ConfigError(f"{self.name}: zero_init_last needs a norm that learns; this one would stay at 0")
                nn.init.zeros_(norm.weight)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "ResNet":
        super().train(mode)
        keep_still(self, self.frozen_parts)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.relu(self.bn1(self.conv1(images)))
        maps = {"c1": x}
        x = self.maxpool(x)
        for map_name, stage in zip(MAPS[1:], STAGES, strict=True):
            if hasattr(self, stage):
                x = maps[map_name] = getattr(self, stage)(x)
        return {name: maps[name] for name in self.out_features}


BACKBONES.register_variants(
    {f"resnet{depth}": {"type": "ResNet", "depth": depth} for depth in DEPTHS}
    | {f"resnet{depth}_caffe": {"type": "ResNet", "depth": depth, "style": "caffe"} for depth in (50, 101, 152)}
)
