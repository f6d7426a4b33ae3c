"""Named variants of `ResNet`, as tables of its arguments: ResNet, ResNeXt, Wide ResNet, SE-ResNet and ResNet-RS.

Default weights are torchvision's IMAGENET1K_V1 where they exist: torchvision's detectors are fine-tuned from these
weights, which were trained with the papers' recipes (except resnext101_64x4d, which has a newer recipe).
"""

from typing import Any

from chordate.registry import BACKBONES

Variants = dict[str, dict[str, Any]]


def _torchvision(name: str, **settings: Any) -> Variants:
    return {name: {**settings, "default_weights": f"torchvision://{name}/IMAGENET1K_V1"}}


def _timm(name: str, tag: str, **settings: Any) -> Variants:
    return {name: {**settings, "default_weights": f"timm://{name}.{tag}"}}


# He et al. 2016, Deep Residual Learning for Image Recognition, table 1. Suffixes as in GluonCV and timm: "c" (deep
# stem) and "d" (deep stem, and average pool in the shortcut), He T. et al. 2019, section 4.2; "s" (deep stem of twice
# the width), as in DeepLab. "caffe": stride in the first 1×1 convolution.
RESNET: Variants = {
    **_torchvision("resnet18", depth=18),
    **_torchvision("resnet34", depth=34),
    **_torchvision("resnet50", depth=50),
    **_torchvision("resnet101", depth=101),
    **_torchvision("resnet152", depth=152),
    "resnet50_caffe": {"depth": 50, "style": "caffe"},
    "resnet101_caffe": {"depth": 101, "style": "caffe"},
    "resnet152_caffe": {"depth": 152, "style": "caffe"},
    **_timm("resnet50c", "gluon_in1k", depth=50, stem="deep"),
    **_timm("resnet101c", "gluon_in1k", depth=101, stem="deep"),
    **_timm("resnet152c", "gluon_in1k", depth=152, stem="deep"),
    **_timm("resnet50s", "gluon_in1k", depth=50, stem="deep", stem_channels=128),
    **_timm("resnet101s", "gluon_in1k", depth=101, stem="deep", stem_channels=128),
    **_timm("resnet152s", "gluon_in1k", depth=152, stem="deep", stem_channels=128),
    **_timm("resnet18d", "ra2_in1k", depth=18, stem="deep", shortcut="D"),
    **_timm("resnet34d", "ra2_in1k", depth=34, stem="deep", shortcut="D"),
    **_timm("resnet50d", "ra2_in1k", depth=50, stem="deep", shortcut="D"),
    **_timm("resnet101d", "ra2_in1k", depth=101, stem="deep", shortcut="D"),
    **_timm("resnet152d", "ra2_in1k", depth=152, stem="deep", shortcut="D"),
    "plain18": {"depth": 18, "shortcut": "none"},
    "plain34": {"depth": 34, "shortcut": "none"},
}

# Xie et al. 2017, Aggregated Residual Transformations for Deep Neural Networks, table 1: the 3×3 convolution of each
# bottleneck has `groups` groups (the cardinality) of `group_width` channels at c2, twice as many channels at each later
# stage; "32x4d" is groups x group_width. 32x8d: Mahajan et al. 2018.
RESNEXT: Variants = {
    **_torchvision("resnext50_32x4d", depth=50, groups=32, group_width=4),
    **_timm("resnext101_32x4d", "gluon_in1k", depth=101, groups=32, group_width=4),
    **_torchvision("resnext101_32x8d", depth=101, groups=32, group_width=8),
    **_torchvision("resnext101_64x4d", depth=101, groups=64, group_width=4),
}

# Zagoruyko & Komodakis 2016, Wide Residual Networks, table 8: "WRN-50-2-bottleneck" has twice as many channels as
# ResNet-50 in the 3×3 convolution of each bottleneck, and the same number of output channels per block.
WIDE_RESNET: Variants = {
    **_torchvision("wide_resnet50_2", depth=50, group_width=128),
    **_torchvision("wide_resnet101_2", depth=101, group_width=128),
}

# Hu et al. 2018, Squeeze-and-Excitation Networks, figure 3 and table 1. Every ResNet accepts `se`; these are the
# named variants.
SE_RESNET: Variants = {
    "seresnet18": {"depth": 18, "se": 1 / 16},
    "seresnet34": {"depth": 34, "se": 1 / 16},
    **_timm("seresnet50", "ra2_in1k", depth=50, se=1 / 16),
    "seresnet101": {"depth": 101, "se": 1 / 16},
    "seresnet152": {"depth": 152, "se": 1 / 16},
    **_timm("seresnext50_32x4d", "racm_in1k", depth=50, se=1 / 16, groups=32, group_width=4),
    **_timm("seresnext101_32x4d", "gluon_in1k", depth=101, se=1 / 16, groups=32, group_width=4),
}

# Bello et al. 2021, Revisiting ResNets: a ResNet-D with squeeze-and-excitation of ratio 1/4 and a strided convolution
# in place of the stem's max-pool (section 4.1). Depth and image size of ResNet-RS grow together (section 6).
RESNET_RS_DEPTHS = (50, 101, 152, 200, 270, 350, 420)
RESNET_RS: Variants = {}
for depth in RESNET_RS_DEPTHS:
    RESNET_RS |= _timm(f"resnetrs{depth}", "tf_in1k", depth=depth, stem="deep-strided", shortcut="D", se=1 / 4)

BACKBONES.register_variants(
    {
        name: {"type": "ResNet", **settings}
        for family in (RESNET, RESNEXT, WIDE_RESNET, SE_RESNET, RESNET_RS)
        for name, settings in family.items()
    }
)
