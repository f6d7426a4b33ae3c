"""One-stage detector (RetinaNet, Lin et al. 2017): predicts detections directly at each feature map cell."""

from typing import Any

import torch
from torch import Tensor, nn

from chordate.arguments import PositiveInt
from chordate.head_contracts import DenseHead
from chordate.model_contracts import check_batch
from chordate.models.detector import Detector
from chordate.models.detector_tta import DetectorTTA, merge_detections
from chordate.models.parts import Part, not_exported, padded, parts_of, wrong_targets
from chordate.registry import HEADS, MODELS
from chordate.structures import Batch, DatasetMeta, Detections, InstanceTargets


@MODELS.register_module()
class OneStageDetector(Detector):
    """One-stage detector: backbone, neck and a dense head.

    Args:
        head: a `DenseHead`, such as `RetinaHead`.

    The other arguments are as in `Detector`.
    """

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        head: Part,
        neck: Part | None = None,
        preprocess: dict[str, Any] | None = None,
        size_divisor: PositiveInt = 32,
        tta: dict[str, Any] | None = None,
    ):
        super().__init__(meta, backbone, neck, preprocess, size_divisor, tta)
        self.head: DenseHead = HEADS.build(head, facts=meta.facts(), contract=DenseHead, in_features=self.head_features)

    @property
    def detections_per_image(self) -> int:
        return self.head.detections_per_image

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if not isinstance(batch.targets, InstanceTargets):
            raise wrong_targets(self, batch.targets, InstanceTargets)
        outputs = self.head(self.features(batch.images, batch.sizes))
        return self.head.loss(outputs, batch.sizes, batch.targets)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        check_batch(self, batch)
        if self.tta is not None:
            detections = self._detect_augmented(self.tta, batch)
        else:
            detections = self._detect(batch.images, batch.sizes)
        return [prediction.to_original(*source) for prediction, *source in zip(detections, batch.infos, batch.sizes)]

    def dense_parts(self) -> list[nn.Module]:
        return [*super().dense_parts(), *parts_of(self.head)]

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """`boxes` `[N, D, 4]`, `scores` `[N, D]` and `labels` `[N, D]`, see `PaddedDetections`."""
        if self.tta is not None:
            raise not_exported(self, "tta")
        return vars(padded(self.head).predict_padded(self.head(self.features(images, sizes)), sizes))

    def _detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Predict detections, with boxes in pixels of the padded images."""
        return self.head.predict(self.head(self.features(images, sizes)), sizes)

    def _detect_augmented(self, tta: DetectorTTA, batch: Batch) -> list[Detections]:
        """Predict on all augmented batches and merge the detections; boxes are in pixels of `batch`."""
        augmented = tta.augment(batch, self.size_divisor)
        detections = [one.inverse_boxes(self._detect(one.images, one.sizes)) for one in augmented]
        return merge_detections(detections, self.head.nms_threshold, self.head.detections_per_image)
