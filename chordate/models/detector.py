"""What detectors of one and of two stages share: from the batch to the maps that heads read, and back to pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chordate import checks
from chordate.contracts import FeatureSpecs, Model, check_outputs, offered
from chordate.errors import DataError
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalize
from chordate.models.tta import build_views
from chordate.registry import BACKBONES, NECKS
from chordate.structures import Batch, DatasetMeta, Detections, ImageInfo, InstanceTargets

Part = str | Mapping[str, Any] | nn.Module


class Detector(Model):
    """Normalisation, backbone and neck. A subclass adds heads, and has `loss(batch)` and `predict(batch)`.

    Every part is a variant's name, a dict with `type` and the part's own arguments, or a built module;
    channels, strides and the number of classes are handed on, not configured.

    Args:
        meta: of the data set.
        backbone: images to feature maps.
        neck: feature maps to feature maps, or None where the heads read the backbone's.
        mean, std, bgr: see `Normalize`; the backbone's weights decide.
        size_divisor: images are padded to multiples of this; the largest stride whose map must line up
            with those below it.
        tta: test-time augmentation, `dict(scales=[0.75, 1.0, 1.25], flip=True)`: predictions merged over the images at
            these sizes, and mirrored (see `tta`). None: the images as they come.

    Raises:
        ConfigError: two parts do not fit together (the message names both), or a setting is out of its range.
    """

    example_size = (800, 1344)

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        neck: Part | None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
        size_divisor: int = 32,
        tta: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        checks.whole(type(self).__name__, 1, size_divisor=size_divisor)
        self.meta, self.size_divisor = meta, size_divisor
        self.views = build_views(tta, size_divisor)
        self.preprocess = Normalize(mean, std, bgr)
        self.backbone = BACKBONES.build(backbone)
        check_outputs(self.backbone, in_channels=len(mean))
        self.neck = None if neck is None else NECKS.build(neck, in_features=offered(self.backbone))

    @property
    def head_features(self) -> FeatureSpecs:
        """What the heads read."""
        return offered(self.backbone if self.neck is None else self.neck)

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocess(batch.images, batch.sizes))

    def features(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """What the heads read, from the batch's `images` `[N, 3, H, W]` and `sizes` `[N, 2]`."""
        features = self.backbone(self.preprocess(images, sizes))
        return features if self.neck is None else self.neck(features)


def instance_targets(batch: Batch) -> InstanceTargets:
    """The batch's targets.

    Raises:
        DataError: it has none.
    """
    if batch.targets is None:
        raise DataError("a batch without targets cannot be trained on; call model.predict to predict")
    return batch.targets


@torch.no_grad()
def to_original(detections: Sequence[Detections], sizes: Tensor, infos: Sequence[ImageInfo]) -> list[Tensor]:
    """Take detections' boxes from pixels of the batch to pixels of the original images, in place.

    Returns:
        x and y factors of each image, `[4]` x, y, x, y. They differ a little, because each side was rounded to whole
        pixels when the image was resized.
    """
    scales = list(original_scales(sizes, infos))
    for found, scale in zip(detections, scales, strict=True):
        found.boxes = found.boxes * scale.to(found.boxes.dtype)
    return scales


def original_scales(sizes: Tensor, infos: Sequence[ImageInfo]) -> Tensor:
    """What takes x1, y1, x2, y2 in the batch to the original image, `[N, 4]` float64."""
    original = torch.tensor([[info.width, info.height] for info in infos], dtype=torch.float64)
    return (original.to(sizes.device) / sizes.flip(-1)).repeat(1, 2)
