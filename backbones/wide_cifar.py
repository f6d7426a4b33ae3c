"""Wide ResNets for CIFAR (Zagoruyko & Komodakis 2016, Wide Residual Networks, tables 4 and 5): WRN-depth-width.

Pre-activation blocks of two 3×3 convolutions, some times as wide, with dropout between them where a recipe asks for it.
"""

from chordate.registry import BACKBONES

SIZES = ((16, 4), (16, 8), (28, 10), (40, 4))  # depth, times as wide as a ResNet

BACKBONES.register_variants(
    {
        f"wrn{depth}_{widen}_cifar": {"type": "CifarPreActResNet", "depth": depth, "widen": widen}
        for depth, widen in SIZES
    }
)
