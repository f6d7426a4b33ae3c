"""The two-stage detector (Faster R-CNN, Ren et al. 2015): proposals first, then a closer look at each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chordate.contracts import ProposalHead, SamplingHead, check_outputs, offered
from chordate.errors import DataError
from chordate.ops import checks
from chordate.ops.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalize
from chordate.registry import BACKBONES, HEADS, MODELS, NECKS
from chordate.structures import Batch, Detections, ImageInfo

Part = str | Mapping[str, Any] | nn.Module


@MODELS.register_module()
class TwoStageDetector(nn.Module):
    """Backbone, neck, proposal head and box head, wired to one another.

    Every part is a variant's name, a dict with `type` and the part's own arguments, or a built module;
    channels, strides and the number of classes are handed on, not configured.

    Args:
        backbone: images to feature maps.
        neck: feature maps to feature maps, or None where the heads read the backbone's.
        rpn: proposes boxes.
        box: classifies and refines them.
        num_classes: without the background.
        mean, std, bgr: see `Normalize`; the backbone's weights decide.
        size_divisor: images are padded to multiples of this; the largest stride whose map must line up
            with those below it.

    Raises:
        ConfigError: two parts do not fit together (the message names both), or a setting is out of its range.
    """

    classes: tuple[str, ...] = ()  # set by whoever knows the data

    def __init__(
        self,
        backbone: Part,
        rpn: Part,
        box: Part,
        num_classes: int,
        neck: Part | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
        size_divisor: int = 32,
    ):
        super().__init__()
        checks.whole("TwoStageDetector", 1, num_classes=num_classes, size_divisor=size_divisor)
        self.num_classes = num_classes
        self.preprocess = Normalize(mean, std, size_divisor, bgr)
        self.backbone = BACKBONES.build(backbone)
        check_outputs(self.backbone, in_channels=len(mean))
        self.neck = None if neck is None else NECKS.build(neck, in_features=offered(self.backbone))
        features = offered(self.backbone if self.neck is None else self.neck)
        self.rpn: ProposalHead = HEADS.build(rpn, in_features=features)
        self.box: SamplingHead = HEADS.build(box, in_features=features, num_classes=num_classes)

    def features(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """What the heads read, from the batch's `images` `[N, 3, H, W]` and `sizes` `[N, 2]`."""
        features = self.backbone(self.preprocess(images, sizes))
        return features if self.neck is None else self.neck(features)

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[Detections]:
        """Losses in training, to be summed; otherwise detections in pixels of the original images.

        Raises:
            DataError: a training batch without ground truth.
        """
        return self.loss(batch) if self.training else self.predict(batch)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if batch.targets is None:
            raise DataError("a batch without targets cannot be trained on; call model.eval() to predict")
        features = self.features(batch.images, batch.sizes)
        dense = self.rpn(features)
        losses = self.rpn.loss(dense, batch.sizes, batch.targets)
        rois = self.box.sample(self.rpn.predict(dense, batch.sizes), batch.targets)
        return {**losses, **self.box.loss(features, rois, batch.targets)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        features = self.features(batch.images, batch.sizes)
        proposals = self.rpn.predict(self.rpn(features), batch.sizes)
        detections = self.box.predict(features, proposals, batch.sizes)
        scales = original_scales(batch.sizes, batch.infos)
        for found, scale in zip(detections, scales, strict=True):
            found.boxes = found.boxes * scale.to(found.boxes.dtype)
        return detections


def original_scales(sizes: Tensor, infos: Sequence[ImageInfo]) -> Tensor:
    """What takes x1, y1, x2, y2 in the batch to the original image, `[N, 4]` float64.

    The two axes differ a little, because each side was rounded to whole pixels when the image was resized.
    """
    original = torch.tensor([[info.width, info.height] for info in infos], dtype=torch.float64)
    return (original.to(sizes.device) / sizes.flip(-1)).repeat(1, 2)
