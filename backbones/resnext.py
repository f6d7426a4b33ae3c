"""ResNeXt (Xie et al. 2017, Aggregated Residual Transformations for Deep Neural Networks).

The 3×3 of each bottleneck is cut into `groups` paths (the cardinality) of `group_width` channels at c2, twice as many
at each stage after it (table 1); "32x4d" is groups x group_width. 32x8d is of Mahajan et al. 2018.
"""

from typing import Any

from chordate.registry import BACKBONES

VARIANTS: dict[str, dict[str, Any]] = {
    "resnext50_32x4d": {
        "depth": 50,
        "groups": 32,
        "group_width": 4,
        "default_weights": "torchvision://resnext50_32x4d/IMAGENET1K_V1",
    },
    "resnext101_32x4d": {
        "depth": 101,
        "groups": 32,
        "group_width": 4,
        "default_weights": "timm://resnext101_32x4d.gluon_in1k",
    },
    "resnext101_32x8d": {
        "depth": 101,
        "groups": 32,
        "group_width": 8,
        "default_weights": "torchvision://resnext101_32x8d/IMAGENET1K_V1",
    },
    "resnext101_64x4d": {
        "depth": 101,
        "groups": 64,
        "group_width": 4,
        "default_weights": "torchvision://resnext101_64x4d/IMAGENET1K_V1",
    },
}
BACKBONES.register_variants({name: {"type": "ResNet", **settings} for name, settings in VARIANTS.items()})
