"""The base class of detectors: computes the feature maps that the heads read."""

from typing import Any

from torch import Tensor

from chordate.arguments import PositiveInt, validate_settings
from chordate.contracts import FeatureSpecs, check_outputs, offered
from chordate.model_contracts import Model
from chordate.models.detector_tta import DetectorTTA
from chordate.models.parts import Part
from chordate.models.preprocess import Normalize
from chordate.registry import BACKBONES, NECKS
from chordate.structures import Batch, DatasetMeta


class Detector(Model):
    """Normalization, backbone and neck. A subclass adds heads, `loss(batch)` and `predict(batch)`.

    Every part is a variant's name, a dict with `type` and the part's own arguments, or a built module. Channels,
    strides, and the class and keypoint counts in `meta` are passed to the parts automatically.

    Args:
        meta: metadata of the dataset.
        backbone: images to feature maps.
        neck: feature maps to feature maps, or None if the heads read the backbone's maps.
        preprocess: arguments of `Normalize`, `dict(mean=…, std=…, bgr=…)`; None for ImageNet's statistics.
        size_divisor: heights and widths are padded to multiples of this, so that maps of all strides up to it align.
        tta: arguments of `DetectorTTA`, `dict(scales=[0.75, 1.0, 1.25], flip=True)`; None for no test-time
            augmentation.

    Raises:
        ConfigError: two parts do not fit together; the message names both.
    """

    example_size = (800, 1344)

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        neck: Part | None,
        preprocess: dict[str, Any] | None,
        size_divisor: PositiveInt,
        tta: dict[str, Any] | None,
    ):
        super().__init__()
        self.meta, self.size_divisor = meta, size_divisor
        self.preprocess = validate_settings(Normalize, preprocess, "preprocess")
        self.backbone = BACKBONES.build(backbone)
        self.neck = None if neck is None else NECKS.build(neck, in_features=offered(self.backbone))
        check_outputs(self.backbone, in_channels=len(self.preprocess.mean), neck=self.neck)
        self.tta: DetectorTTA | None = None if tta is None else validate_settings(DetectorTTA, tta, "tta")

    @property
    def head_features(self) -> FeatureSpecs:
        """The maps that the heads read."""
        return offered(self.backbone if self.neck is None else self.neck)

    def feature_specs(self) -> FeatureSpecs:
        return self.head_features

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocess(batch.images, batch.sizes))

    def features(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """The maps that the heads read, for `images` `[N, 3, H, W]` and `sizes` `[N, 2]` of a batch."""
        features = self.backbone(self.preprocess(images, sizes))
        return features if self.neck is None else self.neck(features)
