"""Box head of Cascade R-CNN (Cai & Vasconcelos 2018): each stage refines the boxes of the stage before."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from chordate.arguments import Fraction, NonEmpty, PositiveInt
from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.heads.box import BoxHead, BoxWeights
from chordate.ops.boxes import clip_boxes_to_image, decode, is_nonempty
from chordate.ops.padded_index import PaddedIndex
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, PaddedDetections, Proposals, SampledRoIs
from chordate.structures.detection import image_of_rows

# Table 1 of the paper's journal version (2019), and Detectron2's ROI_BOX_CASCADE_HEAD: later stages receive better
# boxes, so they have higher IoU thresholds, and larger weights because their deltas are smaller.
IOU_THRESHOLDS = (0.5, 0.6, 0.7)
BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
MIN_SIDE = 1e-3  # minimum side in pixels of the regions for training


@HEADS.register_module()
class CascadeHead(nn.Module):
    """A sequence of box heads (stages): each stage classifies the regions, and refines their boxes for the next stage.

    Box regression is class-agnostic. In training, all stages use the regions sampled for the first stage; before each
    later stage, the refined boxes are matched again. In testing, the class probabilities of all stages are averaged,
    and the boxes are the last stage's (section 4.1).

    Args:
        in_features, num_classes: see `BoxHead`.
        iou_thresholds, box_weights: the arguments `iou_threshold` and `box_weights` of `BoxHead`, one entry per stage.
        averaged: class scores that are averaged over the stages: "probabilities" as in the paper and in Detectron2, or
            "logits" as in MMDetection.
        stage: other arguments of `BoxHead`, the same for all stages.

    Raises:
        ConfigError: `iou_thresholds` and `box_weights` differ in length, or `BoxHead` rejects arguments.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        iou_thresholds: Annotated[Sequence[Fraction], NonEmpty] = IOU_THRESHOLDS,
        box_weights: Sequence[BoxWeights] = BOX_WEIGHTS,
        averaged: Literal["probabilities", "logits"] = "probabilities",
        stage: dict[str, Any] | None = None,
    ):
        super().__init__()
        if len(iou_thresholds) != len(box_weights):
            raise ConfigError(
                f"CascadeHead: iou_thresholds has {len(iou_thresholds)} entries, box_weights {len(box_weights)}; "
                f"pass one entry of each per stage"
            )
        own = {"iou_threshold", "box_weights", "class_agnostic"} & set(stage or {})
        if own:
            raise ConfigError(
                f"CascadeHead: `stage` must not contain {', '.join(sorted(own))}; set CascadeHead's iou_thresholds and "
                f"box_weights instead (class_agnostic is always true)"
            )
        self.stages: Any = nn.ModuleList(  # of BoxHeads
            HEADS.build(
                (stage or {}) | {"type": BoxHead},
                in_features=in_features,
                num_classes=num_classes,
                class_agnostic=True,
                iou_threshold=threshold,
                box_weights=weights,
            )
            for threshold, weights in zip(iou_thresholds, box_weights)
        )
        self.box_weights, self.averaged = tuple(box_weights), averaged
        self.nms_threshold = self.stages[-1].nms_threshold
        self.detections_per_image = self.stages[-1].detections_per_image

    def sample(self, proposals: Proposals, targets: InstanceTargets) -> SampledRoIs:
        """Sample the regions on which the first stage and the mask and keypoint heads train."""
        return self.stages[0].sample(proposals, targets)

    def loss(self, features: Mapping[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Compute the losses of each stage as in `BoxHead`, with the stage index appended to their names."""
        # Losses are summed over stages, but their gradient with respect to the feature maps is averaged.
        features = {name: scale_gradient(x, 1 / len(self.stages)) for name, x in features.items()}
        losses: dict[str, Tensor] = {}
        for number, stage in enumerate(self.stages):
            index = PaddedIndex(rois.valid)
            boxes = index.flatten(rois.boxes)
            logits, deltas = stage(features, boxes, index.image)
            stage_losses = stage.losses(logits, deltas, boxes, index, rois, targets)
            losses |= {f"{name}_{number}": value for name, value in stage_losses.items()}
            if number + 1 < len(self.stages):
                boxes = _refine(stage, boxes, deltas, rois.sizes[index.image])
                rois = _match(self.stages[number + 1], index.unflatten(boxes, rois.boxes), rois, targets)
        return losses

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], proposals: Proposals) -> list[Detections]:
        """Predict the detections of each image, with boxes in pixels of the padded batch, clipped to the image."""
        index = PaddedIndex(proposals.valid)
        boxes = index.flatten(proposals.boxes)
        sizes = proposals.sizes[index.image]
        probabilities, deltas, boxes = self._cascade(features, boxes, index.image, sizes)
        return self.stages[-1].detections(probabilities, deltas, boxes, index, proposals.sizes)

    @torch.no_grad()
    def predict_padded(self, features: Mapping[str, Tensor], proposals: Proposals) -> PaddedDetections:
        """`predict`, with shapes that do not depend on values; see `PredictsPadded`."""
        image, boxes = image_of_rows(proposals.valid), proposals.boxes.flatten(0, 1)
        probabilities, deltas, boxes = self._cascade(features, boxes, image, proposals.sizes[image])
        refined = replace(proposals, boxes=boxes.view_as(proposals.boxes))
        return self.stages[-1].padded_detections(probabilities, deltas, refined)

    def _cascade(
        self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The class probabilities averaged over the stages, the last stage's deltas, and the boxes that it received.

        Args:
            boxes, image, sizes: `[R, 4]`, and for each box the index of its image `[R]` and the image's size `[R, 2]`.
        """
        scores = []
        for number, stage in enumerate(self.stages):
            logits, deltas = stage(features, boxes, image)
            scores.append(logits.softmax(dim=1) if self.averaged == "probabilities" else logits)
            if number + 1 < len(self.stages):
                boxes = _refine(stage, boxes, deltas, sizes)
        mean = torch.stack(scores).mean(dim=0)
        return mean if self.averaged == "probabilities" else mean.softmax(dim=1), deltas, boxes


def _refine(stage: BoxHead, boxes: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
    """Apply a stage's deltas to `boxes` `[R, 4]`, and clip the results to the `sizes` `[R, 2]` of their images."""
    refined = decode(deltas[:, 0].detach(), boxes, stage.box_weights)
    return clip_boxes_to_image(refined, sizes)


@torch.no_grad()
def _match(stage: BoxHead, boxes: Tensor, rois: SampledRoIs, targets: InstanceTargets) -> SampledRoIs:
    """Match the refined boxes `[N, S, 4]` of `rois` at the IoU threshold of `stage`, without sampling again."""
    matches = stage.matcher(boxes, targets)
    positive = matches.positive & rois.valid
    return SampledRoIs(
        boxes=boxes,
        labels=torch.where(positive, targets.labels.gather(1, matches.gt_index), stage.num_classes),
        gt_index=matches.gt_index,
        is_foreground=positive,
        # A region that is mostly crowd is neither positive nor negative, so it is not trained on.
        valid=rois.valid & (positive | matches.negative) & is_nonempty(boxes, MIN_SIDE),
        sizes=rois.sizes,
        max_positives=boxes.shape[1],
    )


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Identity in the forward pass; multiplies the gradient of `x` `[...]` by `factor` in the backward pass."""
    return torch.lerp(x.detach(), x, factor)
