"""SE-ResNet and SE-ResNeXt (Hu et al. 2018, Squeeze-and-Excitation Networks, figure 3 and table 1), ratio 1/16.

Squeeze-and-excitation is a switch of every ResNet (`se=1/16`); these are the ones with a name.
"""

from typing import Any

from chordate.registry import BACKBONES

VARIANTS: dict[str, dict[str, Any]] = {
    "seresnet18": {"depth": 18},
    "seresnet34": {"depth": 34},
    "seresnet50": {"depth": 50, "default_weights": "timm://seresnet50.ra2_in1k"},
    "seresnet101": {"depth": 101},
    "seresnet152": {"depth": 152},
    "seresnext50_32x4d": {
        "depth": 50,
        "groups": 32,
        "group_width": 4,
        "default_weights": "timm://seresnext50_32x4d.racm_in1k",
    },
    "seresnext101_32x4d": {
        "depth": 101,
        "groups": 32,
        "group_width": 4,
        "default_weights": "timm://seresnext101_32x4d.gluon_in1k",
    },
}
BACKBONES.register_variants({name: {"type": "ResNet", "se": 1 / 16, **row} for name, row in VARIANTS.items()})
