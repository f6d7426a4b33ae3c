"""ResNet (He et al. 2016, Deep Residual Learning for Image Recognition).

ResNeXt, Wide ResNet, SE-ResNet and ResNet-RS are this class with other arguments, listed in `resnet_variants.py`.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from chordate.arguments import PositiveFloat, PositiveInt, ProperFraction
from chordate.backbones.base import STRIDES_AND_DILATIONS, MapNames, StagedBackbone
from chordate.backbones.layers import BasicBlock, Bottleneck, Shortcut, Style, conv, deep_stem_conv
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.convolutions import he_init
from chordate.ops.norms import ConvNorm, FrozenBatchNorm, Norm, make_norm
from chordate.registry import BACKBONES

Depth = Literal[18, 34, 50, 101, 152, 200, 270, 350, 420]
# For each depth, the type of block, and the number of blocks in c2 … c5. Up to 152: table 1; 200: He et al. 2016,
# Identity Mappings, section 4; above 200: Bello et al. 2021, appendix.
DEPTHS: dict[Depth, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
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
Stem = Literal["7x7", "deep", "deep-strided"]


@BACKBONES.register_module()
class ResNet(StagedBackbone):
    """ResNet: computes the feature maps in `out` from normalized images `[N, in_channels, H, W]`.

    c1 is the stem's output before the max-pool (stride 2); c2 … c5 are the outputs of the four stages (strides 4 … 32).

    Args:
        depth: 18, 34 (basic blocks), 50, 101, 152, 200, 270, 350 or 420 (bottlenecks).
        out, in_channels, frozen_stages, checkpointing: see `StagedBackbone`.
        style: "pytorch" puts the stride of a bottleneck in the 3×3 convolution, as torchvision's weights require (v1.5,
            ResNet-B); "caffe" puts it in the first 1×1 convolution, as in the paper (v1) and Detectron2's MSRA weights.
        shortcut: "A" for zero padding, "B" for projections if the shape changes, "C" for projections in every block,
            "D" for option B after an average pool, "none" for a plain network. See `make_shortcut`.
        stem: "7x7" for a 7×7 convolution, as in the paper; "deep" for three 3×3 convolutions (ResNet-C, He T. et al.
            2019, section 4.2); "deep-strided" for three 3×3 convolutions, and a strided 3×3 convolution instead of the
            max-pool (ResNet-RS, Bello et al. 2021, section 4.1).
        base_channels: width of the blocks in c2, 64 in the paper; the width doubles with each stage.
        stem_channels: width of the stem; None for `base_channels`. DeepLab's ResNets ("R-52" in Detectron2) have 128.
        groups, group_width: arguments of `Bottleneck`; 32 and 4 for ResNeXt-32x4d.
        se: ratio of squeeze-and-excitation in every block, or None.
        norm: "BN", "SyncBN", "FrozenBN", "GN" or a dict, see `make_norm`.
        output_stride: 32, or 16 or 8 for dense prediction, see `STRIDES_AND_DILATIONS`. With `se` (which then averages
            more positions) or shortcut "D", the values differ slightly from those of the network with output stride 32.
        dilations: dilations of c2 … c5, instead of the dilations that `output_stride` implies; each applies to
            every block of its stage, as in Detectron2 and MMDetection.
        multi_grid: for each block of c5, a factor that multiplies its dilation; (1, 2, 4) in DeepLab v3 (its section
            3.2.1).
        zero_init_last: whether to initialize each block's last norm with zero, so that the blocks start as identities
            (Goyal et al. 2017, section 5.1).
        drop_path: stochastic depth rate of the last block, see `drop_rates`.

    Raises:
        ConfigError: arguments contradict each other.
    """

    def __init__(
        self,
        depth: Depth,
        *,
        out: MapNames = ("c2", "c3", "c4", "c5"),
        in_channels: PositiveInt = 3,
        style: Style = "pytorch",
        shortcut: Shortcut = "B",
        stem: Stem = "7x7",
        base_channels: PositiveInt = 64,
        stem_channels: PositiveInt | None = None,
        groups: PositiveInt = 1,
        group_width: PositiveInt = 64,
        se: PositiveFloat | None = None,
        norm: Norm = "BN",
        frozen_stages: int = -1,
        output_stride: Literal[8, 16, 32] = 32,
        dilations: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None,
        multi_grid: Sequence[PositiveInt] | None = None,
        zero_init_last: bool = False,
        drop_path: ProperFraction = 0.0,
        checkpointing: bool = False,
    ):
        block, counts = DEPTHS[depth]
        name = _name(depth, style, shortcut, stem, base_channels, stem_channels, groups, group_width, se)
        super().__init__(
            name, out=out, in_channels=in_channels, frozen_stages=frozen_stages, checkpointing=checkpointing
        )
        self.style, self.output_stride = style, output_stride
        self.multi_grid = tuple(multi_grid or (1,) * counts[-1])
        options: dict[str, Any] = {"style": style, "groups": groups, "group_width": group_width}
        if block is BasicBlock:  # BasicBlock is the same in both styles
            options = {}
            if (groups, group_width) != (1, 64):
                raise ConfigError(
                    f"{name}: groups must be 1 and group_width 64 in networks without bottlenecks (depths below 50), "
                    f"got {groups} and {group_width}"
                )
        if multi_grid is not None and len(multi_grid) != counts[-1]:
            raise ConfigError(
                f"{name}: multi_grid must be {counts[-1]} numbers, one per block of c5, got {list(multi_grid)}"
            )
        strides, implied = STRIDES_AND_DILATIONS[output_stride]
        stem_channels = stem_channels or base_channels
        self._add_stem(stem, stem_channels, norm)
        self.add_stages(
            block,
            stem_channels,
            [base_channels * factor for factor in (1, 2, 4, 8)],
            strides,
            counts,
            stride=4,
            drop_path=drop_path,
            dilations=implied if dilations is None else dilations,
            dilate_first=dilations is not None or multi_grid is not None,
            multi_grid=multi_grid,
            shortcut=shortcut,
            norm=norm,
            se=se,
            **options,
        )
        he_init(self)
        if zero_init_last:
            self._zero_last_norms()
        self.freeze()

    def _add_stem(self, stem: Stem, width: int, norm: Norm) -> None:
        deep = stem != "7x7"
        first = deep_stem_conv(self.in_channels, width, norm) if deep else conv(self.in_channels, width, 7, 2)
        self.add(0, FeatureSpec(width, 2), conv1=first, bn1=make_norm(norm, width), relu=nn.ReLU(inplace=True))
        if self.needs(1):
            strided = ConvNorm(conv(width, width, 3, 2), make_norm(norm, width), nn.ReLU(inplace=True))
            self.add(0, maxpool=strided if stem == "deep-strided" else nn.MaxPool2d(3, 2, padding=1))

    def _zero_last_norms(self) -> None:
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                norm = module.last_norm
                if isinstance(norm, nn.Identity | FrozenBatchNorm):
                    raise ConfigError(
                        f'{self.name}: zero_init_last needs norm "BN", "SyncBN" or "GN"; a frozen norm would stay 0'
                    )
                nn.init.zeros_(norm.weight)  # type: ignore[arg-type]


def _name(
    depth: Depth,
    style: str,
    shortcut: str,
    stem: str,
    base: int,
    stem_channels: int | None,
    groups: int,
    group_width: int,
    se: float | None,
) -> str:
    """The network's name as in the papers, e.g. "ResNeXt-50-32x4d"."""
    if (stem, shortcut) == ("deep-strided", "D") and se:
        return f"ResNet-RS-{depth}"
    if groups > 1:
        name = f"ResNeXt-{depth}-{groups}x{group_width}d"
    elif group_width != 64:
        name = f"Wide ResNet-{depth}-{group_width / 64:g}"
    else:
        letter = {("deep", "D"): "D", ("deep", "B"): "S" if stem_channels == 2 * base else "C"}.get(
            (stem, shortcut), ""
        )
        name = f"plain-{depth}" if shortcut == "none" else f"ResNet-{depth}{letter}"
    is_caffe = style == "caffe" and DEPTHS[depth][0] is Bottleneck
    remarks = [*(["caffe"] if is_caffe else []), *([f"{base} wide"] if base != 64 else [])]
    return ("SE-" if se else "") + name + (f" ({', '.join(remarks)})" if remarks else "")
