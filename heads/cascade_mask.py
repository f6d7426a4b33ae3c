"""Mask head of Cascade Mask R-CNN with one mask branch per stage, as in MMDetection."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chordate.arguments import PositiveInt
from chordate.contracts import FeatureSpec
from chordate.heads.cascade import scale_gradient
from chordate.heads.mask import MaskHead
from chordate.ops.padded_index import cat_boxes
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, PaddedDetections, SampledRoIs


@HEADS.register_module()
class CascadeMaskHead(nn.Module):
    """Several mask heads (stages), whose mask probabilities are averaged.

    This is the third of the three strategies in Cai & Vasconcelos 2019 (Cascade R-CNN: High Quality Object Detection
    and Instance Segmentation). In testing, all stages segment the final boxes, as in the paper. In training, all stages
    use the regions sampled for the first stage of the box head, whereas the paper's use those of their own stage.
    Detectron2's Cascade Mask R-CNN has a single `MaskHead`.

    Args:
        in_features, num_classes: see `MaskHead`.
        stages: number of mask heads.
        stage: other arguments of `MaskHead`, the same for all stages.

    Raises:
        ConfigError: `MaskHead` rejects arguments.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        stages: PositiveInt = 3,
        stage: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.stages: Any = nn.ModuleList(  # of MaskHeads
            HEADS.build((stage or {}) | {"type": MaskHead}, in_features=in_features, num_classes=num_classes)
            for _ in range(stages)
        )

    def loss(self, features: Mapping[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Compute the loss of each stage as in `MaskHead`, with the stage index appended to its name."""
        # As in CascadeHead: losses are summed over stages, but their gradient at the feature maps is averaged.
        features = {name: scale_gradient(x, 1 / len(self.stages)) for name, x in features.items()}
        return {
            f"{name}_{number}": value
            for number, stage in enumerate(self.stages)
            for name, value in stage.loss(features, rois, targets).items()
        }

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Predict mask probabilities `[D, M, M]`, each covering its detection's box, for the detections of each image.

        Args:
            detections: one Detections per image, with boxes in pixels of the padded batch.
        """
        pooled = self.stages[0].pooler(features, *cat_boxes(detections))
        masks = [torch.cat(stage.predict(features, detections, pooled)) for stage in self.stages]
        return list(torch.stack(masks).mean(dim=0).split([len(image) for image in detections]))

    @torch.no_grad()
    def predict_padded(self, features: Mapping[str, Tensor], detections: PaddedDetections) -> Tensor:
        """The mask probabilities `[N, D, M, M]` of detections in fixed slots; see `PredictsPadded`."""
        pooled = self.stages[0].pooler(features, *detections.rows()[:2])
        return torch.stack([stage.predict_padded(features, detections, pooled) for stage in self.stages]).mean(dim=0)
