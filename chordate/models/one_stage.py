"""The one-stage detector (RetinaNet, Lin et al. 2017): objects straight from the pyramid's cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chordate.contracts import DenseHead
from chordate.models.detector import Detector, Part, instance_targets, to_original
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.models.tta import merged
from chordate.registry import HEADS, MODELS
from chordate.structures import Batch, DatasetMeta, Detections


@MODELS.register_module()
class OneStageDetector(Detector):
    """Backbone, neck and a dense head, wired to one another.

    Args:
        head: finds objects at every anchor.

    The others as in `Detector`.
    """

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        head: Part,
        neck: Part | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
        size_divisor: int = 32,
        tta: Mapping[str, Any] | None = None,
    ):
        super().__init__(meta, backbone, neck, mean, std, bgr, size_divisor, tta)
        self.head: DenseHead = HEADS.build(head, facts=meta.facts(), in_features=self.head_features)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        targets = instance_targets(batch)
        return self.head.loss(self.head(self.features(batch.images, batch.sizes)), batch.sizes, targets)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        found = []
        for look in [view.of(batch) for view in self.views]:
            outputs = self.head(self.features(look.images, look.sizes))
            found.append(look.back(self.head.predict(outputs, look.sizes)))
        detections = merged(found, self.head)
        to_original(detections, batch.sizes, batch.infos)
        return detections
