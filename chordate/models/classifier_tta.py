"""How a classifier looks at an image in testing: once, at ten crops, or at several scales."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transform

from chordate import checks
from chordate.errors import ConfigError, unknown

Score = Callable[[Tensor], Tensor]  # normalised images [N, 3, H, W] to probabilities [N, classes]


def one_view(images: Tensor, score: Score) -> Tensor:
    """The images as they come."""
    return score(images)


@dataclass(frozen=True)
class TenCrops:
    """The four corners and the centre, and all five mirrored; probabilities averaged (Krizhevsky et al. 2012, 4.1).

    Attributes:
        size: of the square crops, in pixels; the pipeline leaves the images larger.
    """

    size: int

    def __call__(self, images: Tensor, score: Score) -> Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < self.size:
            raise ConfigError(f"views: crops of {self.size} px from images of {width}×{height}; resize them to more")
        return torch.stack([score(crop) for crop in transform.ten_crop(images, [self.size])]).mean(dim=0)


@dataclass(frozen=True)
class Scales:
    """The whole image at several sizes, and mirrored, fully convolutionally; probabilities averaged.

    He et al. 2016, section 3.4: "the fully-convolutional form", shorter sides of 224, 256, 384, 480 and 640. Global
    pooling and a linear layer are linear, so the average over positions is what the head computes on a larger map.

    Attributes:
        sizes: shorter sides in pixels.
    """

    sizes: Sequence[int]

    def __call__(self, images: Tensor, score: Score) -> Tensor:
        scores = []
        for size in self.sizes:
            factor = size / min(images.shape[-2:])
            shape = [round(side * factor) for side in images.shape[-2:]]
            view = F.interpolate(images, shape, mode="bilinear", antialias=True, align_corners=False)
            scores += [score(view), score(view.flip(-1))]
        return torch.stack(scores).mean(dim=0)


VIEWS = {"ten_crop": "size", "multi_scale": "sizes"}  # by type, its only setting


def build_views(settings: Mapping[str, Any] | None) -> Callable[[Tensor, Score], Tensor]:
    """What a config's `views` describes.

    Args:
        settings: `dict(type="ten_crop", size=224)`, `dict(type="multi_scale", sizes=[224, 256, 384, 480, 640])`, or
            None for one view.

    Raises:
        ConfigError: an unknown type or key, or sizes that are none.
    """
    if settings is None:
        return one_view
    kind = str(checks.section("model.views", settings).get("type"))
    if kind not in VIEWS:
        raise ConfigError(unknown("type of views", kind, VIEWS))
    key = VIEWS[kind]
    if set(settings) != {"type", key}:
        raise ConfigError(f"views: {kind} takes {key} and nothing else, not {', '.join({*settings} - {'type'})}")
    sizes = [settings[key]] if kind == "ten_crop" else checks.listed(f"views: {key}", settings[key])
    for size in sizes:
        checks.whole("views", 1, **{key: size})
    return TenCrops(sizes[0]) if kind == "ten_crop" else Scales(tuple(sizes))
