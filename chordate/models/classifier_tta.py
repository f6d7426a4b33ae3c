"""Test-time augmentation of classifiers: averages the probabilities of ten crops, or of several scales."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transform

from chordate.arguments import NonEmpty, PositiveInt
from chordate.errors import ConfigError
from chordate.registry import PlugRegistry

Score = Callable[[Tensor], Tensor]  # normalized images [N, C, H, W] to probabilities [N, classes]
CLASSIFIER_TTA = PlugRegistry("test-time augmentation")


@CLASSIFIER_TTA.register_module(name="ten_crop")
class TenCrop:
    """Averages the probabilities of ten crops: the four corners and the center, each also flipped horizontally.

    Source: Krizhevsky et al. 2012, section 4.1.

    Args:
        size: height and width of the crops in pixels; images must be at least as large.
    """

    def __init__(self, size: PositiveInt):
        self.size = size

    def __call__(self, images: Tensor, score: Score) -> Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < self.size:
            raise ConfigError(
                f"model.tta: crops of {self.size} px do not fit into images of {width}×{height}; use larger images"
            )
        return torch.stack([score(crop) for crop in transform.ten_crop(images, [self.size])]).mean(dim=0)


@CLASSIFIER_TTA.register_module(name="multi_scale")
class MultiScale:
    """Averages the probabilities of the uncropped image at several sizes, each also flipped (fully convolutional test).

    Source: He et al. 2016, section 3.4, with shorter sides of 224, 256, 384, 480 and 640 pixels. Global average pooling
    and the linear layer commute, so the head's logits are the average of the logits at all positions of the feature
    map.

    Args:
        sizes: lengths of the shorter side in pixels.
    """

    def __init__(self, sizes: Annotated[Sequence[PositiveInt], NonEmpty]):
        self.sizes = tuple(sizes)

    def __call__(self, images: Tensor, score: Score) -> Tensor:
        scores = []
        for size in self.sizes:
            factor = size / min(images.shape[-2:])
            shape = [round(side * factor) for side in images.shape[-2:]]
            resized = F.interpolate(images, shape, mode="bilinear", antialias=True, align_corners=False)
            scores += [score(resized), score(resized.flip(-1))]
        return torch.stack(scores).mean(dim=0)
