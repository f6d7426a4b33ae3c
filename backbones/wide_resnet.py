"""Wide ResNet for ImageNet (Zagoruyko & Komodakis 2016, Wide Residual Networks, table 8).

"WRN-50-2-bottleneck" has twice the channels in the 3×3 of each bottleneck, and as many as ResNet-50 between the blocks.
"""

from typing import Any

from chordate.registry import BACKBONES

VARIANTS: dict[str, dict[str, Any]] = {
    "wide_resnet50_2": {
        "depth": 50,
        "group_width": 128,
        "default_weights": "torchvision://wide_resnet50_2/IMAGENET1K_V1",
    },
    "wide_resnet101_2": {
        "depth": 101,
        "group_width": 128,
        "default_weights": "torchvision://wide_resnet101_2/IMAGENET1K_V1",
    },
}
BACKBONES.register_variants({name: {"type": "ResNet", **settings} for name, settings in VARIANTS.items()})
