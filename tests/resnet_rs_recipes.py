"""The recipes of ResNet-RS (Bello et al. 2021, Revisiting ResNets), from the authors' configurations."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """The training settings that differ between the ResNet-RS networks.

    Attributes:
        image_size: side of the training images in pixels.
        drop_path: stochastic depth rate, as in `ResNet`.
        dropout: dropout rate before the classifier.
        randaugment: magnitude of RandAugment, which applies two operations.
    """

    image_size: int
    drop_path: float
    dropout: float
    randaugment: int


# The recipes for each depth, in the paper's order, from the authors' configurations (github.com/tensorflow/tpu,
# models/official/resnet/resnet_rs/configs). All have 350 epochs, batch size 4096, cosine learning rate from 1.6, weight
# decay 4e-5, label smoothing 0.1, EMA of the weights with decay 0.9999.
RECIPES: dict[int, tuple[Recipe, ...]] = {
    50: (Recipe(160, 0.0, 0.25, 10),),
    101: (Recipe(160, 0.0, 0.25, 10), Recipe(192, 0.0, 0.25, 15)),
    152: (Recipe(192, 0.0, 0.25, 15), Recipe(224, 0.0, 0.25, 15), Recipe(256, 0.0, 0.25, 15)),
    200: (Recipe(256, 0.1, 0.25, 15),),
    270: (Recipe(256, 0.1, 0.25, 15),),
    350: (Recipe(256, 0.1, 0.25, 15), Recipe(320, 0.1, 0.4, 15)),
    420: (Recipe(320, 0.1, 0.4, 15),),
}
