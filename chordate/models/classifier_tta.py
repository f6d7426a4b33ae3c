"""Test-time augmentation of classifiers: ten crops, or several scales."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transform

from chordate.arguments import NonEmpty, PositiveInt
from chordate.errors import ConfigError
from chordate.registry import PlugRegistry

Score = Callable[[Tensor], Tensor]  # normalized images [N, 3, H, W] to probabilities [N, classes]
CLASSIFIER_TTA = PlugRegistry("test-time augmentation")


@CLASSIFIER_TTA.register_module(name="ten_crop")
class TenCrop:
    """Averages the probabilities of ten crops: four corners and the center, each also mirrored left to right.

    Source: Krizhevsky et al. 2012, section 4.1.

    Args:
        size: side of the square crops in pixels; the pipeline's images must have at least this size.
    """

    def __init__(self, size: PositiveInt):
        self.size = size

    def __call__(self, images: Tensor, score: Score) -> Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < self.size:
            raise ConfigError(
                f"model.tta: crops of {self.size} px from images of {width}×{height}; resize the images to more"
            )
        return torch.stack([score(crop) for crop in transform.ten_crop(images, [self.size])]).mean(dim=0)


@CLASSIFIER_TTA.register_module(name="multi_scale")
class MultiScale:
    """Averages the probabilities of the whole image at several sizes, each also mirrored (fully convolutional testing).

    Source: He et al. 2016, section 3.4, with shorter sides of 224, 256, 384, 480 and 640 pixels. Global average pooling
    and the linear layer commute, so the head's logits are the average over the positions of a larger map.

    Args:
        sizes: shorter sides in pixels.
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
