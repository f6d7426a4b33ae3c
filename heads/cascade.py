"""The box head of Cascade R-CNN (Cai & Vasconcelos 2018): stages that refine one another's boxes."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.heads.box import BoxHead
from chordate.ops.boxes import clip, decode, wide_enough
from chordate.ops.padded_index import Slots
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, Proposals, SampledRoIs

# Table 1 of the paper's journal version (2019), and Detectron2's ROI_BOX_CASCADE_HEAD: later stages see better boxes,
# so they ask for more overlap, and their deltas are smaller.
IOU_THRESHOLDS = (0.5, 0.6, 0.7)
BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


@HEADS.register_module()
class CascadeHead(nn.Module):
    """Box heads in a row: each classifies the regions, and moves them to where the next one looks.

    Boxes are class-agnostic. In training the first stage's sample goes through all of them, matched anew before each;
    in testing the class probabilities of all stages are averaged, at the last one's boxes (section 4.1).

    Args:
        in_features, num_classes: see `BoxHead`.
        iou_thresholds, box_weights: one entry a stage.
        stage: the settings that all stages share, those of `BoxHead`.

    Raises:
        ConfigError: not as many weights as thresholds, or settings that `BoxHead` refuses.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: int,
        iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
        box_weights: Sequence[tuple[float, float, float, float]] = BOX_WEIGHTS,
        stage: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not iou_thresholds or len(iou_thresholds) != len(box_weights):
            raise ConfigError(
                f"CascadeHead: {len(iou_thresholds)} iou_thresholds and {len(box_weights)} box_weights; "
                f"give one of each a stage"
            )
        own = {"iou_threshold", "box_weights", "class_agnostic"} & set(stage or {})
        if own:
            raise ConfigError(f"CascadeHead: {', '.join(sorted(own))} in `stage` is set by the cascade; remove it")
        self.stages = nn.ModuleList(
            HEADS.build(
                {"type": BoxHead, **(stage or {})},
                in_features=in_features,
                num_classes=num_classes,
                class_agnostic=True,
                iou_threshold=threshold,
                box_weights=weights,
            )
            for threshold, weights in zip(iou_thresholds, box_weights)
        )

    @property
    def nms_threshold(self) -> float:
        return self._stage(-1).nms_threshold

    @property
    def detections_per_image(self) -> int:
        return self._stage(-1).detections_per_image

    def sample(self, proposals: Proposals, targets: InstanceTargets) -> SampledRoIs:
        """The regions that the first stage, and the heads beside this one, learn from."""
        return self._stage(0).sample(proposals, targets)

    def _stage(self, number: int) -> BoxHead:
        return cast(BoxHead, self.stages[number])

    def loss(self, features: Mapping[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Each stage's losses, as of `BoxHead`, with the stage's number behind their names."""
        # The backbone should not learn three times as fast for three stages, each of which counts whole.
        features = {name: _scaled_gradient(x, 1 / len(self.stages)) for name, x in features.items()}
        losses: dict[str, Tensor] = {}
        for number in range(len(self.stages)):
            stage = self._stage(number)
            slots = Slots(rois.valid)
            boxes, labels, index, positive = map(slots, (rois.boxes, rois.labels, rois.gt_index, rois.is_foreground))
            logits, deltas = stage(features, boxes, slots.image)
            truth = targets.boxes[slots.image, index]
            found = stage.losses(logits, deltas, boxes, labels, positive, truth, slots.present)
            losses |= {f"{name}_{number}": value for name, value in found.items()}
            if number + 1 < len(self.stages):
                moved = self._moved(number, boxes, deltas, slots, rois.sizes)
                rois = self._matched(number + 1, slots.back(moved, rois.boxes), rois, targets)
        return losses

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], proposals: Proposals) -> list[Detections]:
        """Detections of each image, boxes in pixels of the padded batch and cut to the image."""
        slots = Slots(proposals.valid)
        boxes = slots(proposals.boxes)
        scores = []
        for number, stage in enumerate(self.stages):
            logits, deltas = stage(features, boxes, slots.image)
            scores.append(logits.softmax(dim=1))
            if number + 1 < len(self.stages):
                boxes = self._moved(number, boxes, deltas, slots, proposals.sizes)
        return self._stage(-1).detections(torch.stack(scores).mean(dim=0), deltas, boxes, slots, proposals.sizes)

    def _moved(self, number: int, boxes: Tensor, deltas: Tensor, slots: Slots, sizes: Tensor) -> Tensor:
        """Where a stage says that the boxes `[R, 4]` should be."""
        found = decode(deltas[:, 0].detach(), boxes, self._stage(number).box_weights)
        return clip(found, sizes[slots.image])

    @torch.no_grad()
    def _matched(self, number: int, boxes: Tensor, before: SampledRoIs, targets: InstanceTargets) -> SampledRoIs:
        """The regions `[N, S, 4]` matched by a stage's threshold; none is drawn anew, those without extent go."""
        stage = self._stage(number)
        matches = stage.matcher(boxes, targets)
        positive = matches.positive & before.valid
        return SampledRoIs(
            boxes=boxes,
            labels=torch.where(positive, targets.labels.gather(1, matches.index), stage.num_classes),
            gt_index=matches.index,
            is_foreground=positive,
            # A region that is mostly crowd is neither positive nor negative, and not learnt from.
            valid=before.valid & (positive | matches.negative) & wide_enough(boxes, 1e-3),
            sizes=before.sizes,
            max_positives=boxes.shape[1],
        )


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` itself, whose gradient is `factor` of what comes back."""
    return torch.lerp(x.detach(), x, factor)
