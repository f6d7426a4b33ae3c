"""Base class of detectors: normalizes images and computes the feature maps for the heads."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from chordate.arguments import PositiveInt, validate_settings
from chordate.contracts import FeatureSpecs, check_outputs, offered
from chordate.model_contracts import Model
from chordate.models.detector_tta import DetectorTTA
from chordate.models.parts import Part
from chordate.models.preprocess import Normalize
from chordate.ops.paste import paste_masks
from chordate.registry import BACKBONES, NECKS
from chordate.structures import Batch, DatasetMeta, Detections


class Detector(Model):
    """Base class of detectors with normalization, backbone and neck.

    A subclass adds heads, `loss(batch)` and `predict(batch)`.

    The backbone, the neck and each head are given as a variant's name, a dict with `type` and arguments, or an
    nn.Module. Channels, strides, and the numbers of classes and keypoints in `meta` are passed to them automatically.

    Args:
        meta: metadata of the dataset.
        backbone: computes feature maps from images.
        neck: computes the heads' feature maps from the backbone's; None if the heads use the backbone's directly.
        preprocess: arguments of `Normalize`, `dict(mean=…, std=…, bgr=…)`; None for ImageNet's statistics.
        size_divisor: image heights and widths are padded to multiples of this number, so that feature maps of all
            strides up to this number align.
        tta: arguments of `DetectorTTA`, `dict(scales=[0.75, 1.0, 1.25], flip=True)`; None for no test-time
            augmentation.

    Raises:
        ConfigError: two of these modules do not fit together; the message names both.
    """

    example_size = (800, 1344)
    exports_sizes = True

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
        """Specs of the feature maps that the heads receive."""
        return offered(self.backbone if self.neck is None else self.neck)

    def feature_specs(self) -> FeatureSpecs:
        return self.head_features

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocess(batch.images, batch.sizes))

    def features(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Compute the heads' feature maps from the `images` `[N, C, H, W]` and `sizes` `[N, 2]` of a batch."""
        features = self.backbone(self.preprocess(images, sizes))
        return features if self.neck is None else self.neck(features)

    def from_tensors(self, tensors: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        predictions = []
        for i, (info, size) in enumerate(zip(batch.infos, batch.sizes)):
            own = {name: values[i][tensors["labels"][i] >= 0] for name, values in tensors.items()}
            masks = own.pop("masks", None)
            prediction = Detections(**own).to_original(info, size)
            if masks is not None:
                prediction.masks = paste_masks(masks, prediction.boxes, info.height, info.width)
            predictions.append(prediction)
        return predictions
