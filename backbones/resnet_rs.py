"""ResNet-RS (Bello et al. 2021, Revisiting ResNets: Improved Training and Scaling Strategies).

A ResNet-D with squeeze-and-excitation of ratio 1/4 and a strided convolution for the stem's max-pool (section 4.1),
and depths and image sizes that grow together (section 6); how each was trained is in `RECIPES`.
"""

from typing import Any, NamedTuple

from chordate.registry import BACKBONES

DEPTHS = (50, 101, 152, 200, 270, 350, 420)
VARIANTS: dict[str, dict[str, Any]] = {
    f"resnetrs{depth}": {"depth": depth, "default_weights": f"timm://resnetrs{depth}.tf_in1k"} for depth in DEPTHS
}
ARCHITECTURE = {"stem": "deep-strided", "shortcut": "D", "se": 1 / 4}
BACKBONES.register_variants({name: {"type": "ResNet", **ARCHITECTURE, **row} for name, row in VARIANTS.items()})


class Recipe(NamedTuple):
    """What of the training depends on the network: `image_size` in pixels, `drop_path` as in `ResNet`, `dropout` before
    the classifier, `randaugment` the magnitude of two RandAugment operations."""

    image_size: int
    drop_path: float
    dropout: float
    randaugment: int


# By depth, the sizes in the order of the paper's family. From the authors' configurations
# (github.com/tensorflow/tpu, models/official/resnet/resnet_rs/configs), of 350 epochs with batches of 4096, a cosine
# learning rate that starts at 1.6, weight decay 4e-5, label smoothing 0.1 and averaged weights of decay 0.9999.
RECIPES: dict[int, tuple[Recipe, ...]] = {
    50: (Recipe(160, 0.0, 0.25, 10),),
    101: (Recipe(160, 0.0, 0.25, 10), Recipe(192, 0.0, 0.25, 15)),
    152: (Recipe(192, 0.0, 0.25, 15), Recipe(224, 0.0, 0.25, 15), Recipe(256, 0.0, 0.25, 15)),
    200: (Recipe(256, 0.1, 0.25, 15),),
    270: (Recipe(256, 0.1, 0.25, 15),),
    350: (Recipe(256, 0.1, 0.25, 15), Recipe(320, 0.1, 0.4, 15)),
    420: (Recipe(320, 0.1, 0.4, 15),),
}
