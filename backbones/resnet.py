"""ResNet (He et al. 2016, Deep Residual Learning for Image Recognition) and what is made of its blocks.

ResNeXt, wide, squeeze-and-excitation and -RS networks are settings of this class: rows of the tables in `resnext.py`,
`wide_resnet.py`, `senet.py` and `resnet_rs.py`.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from chordate import checks
from chordate.backbones.blocks import (
    SHORTCUTS,
    STYLES,
    BasicBlock,
    Bottleneck,
    Norm,
    check_choice,
    conv,
    deep_stem_conv,
    he_init,
)
from chordate.backbones.staged import StagedBackbone
from chordate.backbones.stages import add_stages, strides_and_dilations
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.norms import ConvNorm, FrozenBatchNorm, make_norm
from chordate.registry import BACKBONES

# Depth: the block, and how many of it in c2, c3, c4 and c5. To 152: table 1; 200: He et al. 2016, Identity Mappings,
# section 4; beyond: Bello et al. 2021, appendix.
DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
    200: (Bottleneck, (3, 24, 36, 3)),
    270: (Bottleneck, (4, 29, 53, 4)),
    350: (Bottleneck, (4, 36, 72, 4)),
    420: (Bottleneck, (4, 44, 87, 4)),
}
STEMS = ("7x7", "deep", "deep-strided")


@BACKBONES.register_module()
class ResNet(StagedBackbone):
    """Normalised images `[N, in_channels, H, W]` to the maps named in `out`.

    c1 is the stem's output before its max-pool (stride 2), c2 … c5 are the outputs of the four stages.

    Args:
        depth: 18, 34 (basic blocks), 50, 101, 152, 200, 270, 350 or 420 (bottlenecks).
        out, in_channels, frozen_stages, checkpointing: see `StagedBackbone`.
        style: "pytorch" has a bottleneck's stride in its 3×3 convolution, as torchvision's weights expect
            (v1.5, ResNet-B); "caffe" in its first 1×1, as the paper (v1), and Detectron2's MSRA weights.
        shortcut: "A" zero padding, "B" projections where the shape changes, "C" projections everywhere, "D" those of
            B after an average pool, "none": a plain network.
        stem: "7x7", the paper's; "deep": three 3×3 convolutions (ResNet-C: He T. et al. 2019, section 4.2);
            "deep-strided": then a strided 3×3 in place of the max-pool (ResNet-RS: Bello et al. 2021, section 4.1).
        base_channels: of the stem and of the blocks in c2, 64 in the paper; each later stage is twice as wide.
        groups, group_width: of the bottlenecks, see `Bottleneck`; 32 groups of 4 make ResNeXt-32x4d.
        se: ratio of squeeze-and-excitation in every block, or None.
        norm: "BN", "SyncBN", "FrozenBN", "GN" or a dict, see `make_norm`.
        output_stride: 32, or 16 or 8 for dense prediction: later strides are replaced by dilation, so that
            the network computes the same values on a finer grid (Chen et al. 2017, DeepLab v3, section 3.1);
            not exactly so with `se`, whose means are then of more cells, and shortcut D, see `make_shortcut`.
        dilations: of c2 … c5, in place of those that `output_stride` asks for; they hold for every block
            of the stage, as in Detectron2 and MMDetection.
        multi_grid: one number a block of c5, (1, 2, 4) in DeepLab v3 (its section 3.2.1): what the block's dilation
            is multiplied by.
        zero_init_last: start each block's last norm at zero, so that the blocks start as identities
            (Goyal et al. 2017, section 5.1).
        drop_path: stochastic depth: the share of images that skip the last block's branch; earlier ones less.

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
        stem: str = "7x7",
        base_channels: int = 64,
        groups: int = 1,
        group_width: int = 64,
        se: float | None = None,
        norm: Norm = "BN",
        frozen_stages: int = -1,
        output_stride: int = 32,
        dilations: Sequence[int] | None = None,
        multi_grid: Sequence[int] | None = None,
        zero_init_last: bool = False,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ):
        if depth not in DEPTHS:
            raise ConfigError(f"ResNet: depth={depth!r}; known depths: {', '.join(map(str, DEPTHS))}")
        block, counts = DEPTHS[depth]
        check_choice("ResNet style", style, STYLES)
        check_choice("shortcut option", shortcut, SHORTCUTS)
        check_choice("ResNet stem", stem, STEMS)
        checks.whole("ResNet", 1, base_channels=base_channels)
        style = style if block is Bottleneck else "pytorch"  # both are the same for basic blocks
        name = _name(depth, style, shortcut, stem, base_channels, groups, group_width, se)
        super().__init__(
            name, out=out, in_channels=in_channels, frozen_stages=frozen_stages, checkpointing=checkpointing
        )
        self.style = style
        strides, derived = strides_and_dilations(name, output_stride)
        if dilations is not None and len(dilations) != len(counts):
            raise ConfigError(f"{name}: dilations={list(dilations)!r}; give four numbers, for c2 … c5")
        if multi_grid is not None and len(multi_grid) != counts[-1]:
            raise ConfigError(f"{name}: multi_grid={list(multi_grid)!r}; give {counts[-1]} numbers, one a block of c5")

        self._add_stem(stem, base_channels, norm)
        add_stages(
            self,
            block,
            base_channels,
            [base_channels * factor for factor in (1, 2, 4, 8)],
            strides,
            counts,
            stride=4,
            drop_path=drop_path,
            dilations=derived if dilations is None else dilations,
            dilate_first=dilations is not None or multi_grid is not None,
            multi_grid=multi_grid,
            shortcut=shortcut,
            norm=norm,
            style=style,
            groups=groups,
            group_width=group_width,
            se=se,
        )
        self._init_weights(zero_init_last)
        self.freeze()

    def _add_stem(self, stem: str, width: int, norm: Norm) -> None:
        deep = stem != "7x7"
        first = deep_stem_conv(self.in_channels, width, norm) if deep else conv(self.in_channels, width, 7, 2)
        self.add(0, FeatureSpec(width, 2), conv1=first, bn1=make_norm(norm, width), relu=nn.ReLU(inplace=True))
        if self.needs(1):
            strided = ConvNorm(conv(width, width, 3, 2), make_norm(norm, width), nn.ReLU(inplace=True))
            self.add(0, maxpool=strided if stem == "deep-strided" else nn.MaxPool2d(3, 2, padding=1))

    def _init_weights(self, zero_init_last: bool) -> None:
        he_init(self)
        for module in self.modules():
            if zero_init_last and isinstance(module, BasicBlock | Bottleneck):
                norm = module.last_norm
                if isinstance(norm, nn.Identity | FrozenBatchNorm):
                    raise ConfigError(f"{self.name}: zero_init_last needs a norm that learns; this one would stay at 0")
                nn.init.zeros_(norm.weight)  # type: ignore[arg-type]


def _name(
    depth: int, style: str, shortcut: str, stem: str, base: int, groups: int, group_width: int, se: float | None
) -> str:
    """What papers call it."""
    if (stem, shortcut) == ("deep-strided", "D") and se:
        return f"ResNet-RS-{depth}"
    if groups > 1:
        name = f"ResNeXt-{depth}-{groups}x{group_width}d"
    elif group_width != 64:
        name = f"Wide ResNet-{depth}-{group_width / 64:g}"
    else:
        letter = {("deep", "D"): "D", ("deep", "B"): "C"}.get((stem, shortcut), "")
        name = f"plain-{depth}" if shortcut == "none" else f"ResNet-{depth}{letter}"
    remarks = [*(["caffe"] if style == "caffe" else []), *([f"{base} wide"] if base != 64 else [])]
    return ("SE-" if se else "") + name + (f" ({', '.join(remarks)})" if remarks else "")


# Torchvision's first weights were trained as the papers of this repository train; its own detectors start there too.
# "c" and "d" are named as in GluonCV and timm: C has the deep stem, D the average pool in the shortcut besides.
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": {"depth": 18, "default_weights": "torchvision://resnet18/IMAGENET1K_V1"},
    "resnet34": {"depth": 34, "default_weights": "torchvision://resnet34/IMAGENET1K_V1"},
    "resnet50": {"depth": 50, "default_weights": "torchvision://resnet50/IMAGENET1K_V1"},
    "resnet101": {"depth": 101, "default_weights": "torchvision://resnet101/IMAGENET1K_V1"},
    "resnet152": {"depth": 152, "default_weights": "torchvision://resnet152/IMAGENET1K_V1"},
    "resnet50_caffe": {"depth": 50, "style": "caffe"},
    "resnet101_caffe": {"depth": 101, "style": "caffe"},
    "resnet152_caffe": {"depth": 152, "style": "caffe"},
    "resnet50c": {"depth": 50, "stem": "deep", "default_weights": "timm://resnet50c.gluon_in1k"},
    "resnet101c": {"depth": 101, "stem": "deep", "default_weights": "timm://resnet101c.gluon_in1k"},
    "resnet152c": {"depth": 152, "stem": "deep", "default_weights": "timm://resnet152c.gluon_in1k"},
    "resnet18d": {"depth": 18, "stem": "deep", "shortcut": "D", "default_weights": "timm://resnet18d.ra2_in1k"},
    "resnet34d": {"depth": 34, "stem": "deep", "shortcut": "D", "default_weights": "timm://resnet34d.ra2_in1k"},
    "resnet50d": {"depth": 50, "stem": "deep", "shortcut": "D", "default_weights": "timm://resnet50d.ra2_in1k"},
    "resnet101d": {"depth": 101, "stem": "deep", "shortcut": "D", "default_weights": "timm://resnet101d.ra2_in1k"},
    "resnet152d": {"depth": 152, "stem": "deep", "shortcut": "D", "default_weights": "timm://resnet152d.ra2_in1k"},
    "plain18": {"depth": 18, "shortcut": "none"},
    "plain34": {"depth": 34, "shortcut": "none"},
}
BACKBONES.register_variants({name: {"type": "ResNet", **settings} for name, settings in VARIANTS.items()})
