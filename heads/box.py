"""The box head of Fast R-CNN (Girshick 2015, section 2): classifies regions and refines their boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate import checks
from chordate.contracts import ClassRows, FeatureSpec, select
from chordate.ops.boxes import at_least_float32, clip, decode, wide_enough
from chordate.ops.detections import best_detections
from chordate.ops.losses import BoxLoss, masked_mean
from chordate.ops.matching import Matcher
from chordate.ops.pooling import RoIPooler, pyramid_levels
from chordate.ops.sampling import sample_rois
from chordate.ops.padded_index import Slots
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, Proposals, SampledRoIs


@HEADS.register_module()
class BoxHead(nn.Module):
    """Pools regions, passes them through a trunk, and predicts a class and, for each class, a better box.

    The last of the `num_classes + 1` class scores is the background's. Defaults are Detectron2's for a
    pyramid (`Base-RCNN-FPN.yaml`).

    Args:
        in_features: the maps on offer.
        num_classes: without the background.
        levels: the names of the maps to pool from; all up to stride 32 by default.
        resolution, sampling_ratio, aligned: see `RoIPooler`.
        trunk: from `[R, C, resolution, resolution]` to vectors `[R, out_channels]`, or to maps, which are
            then averaged; built with `in_channels` and `resolution`.
        class_agnostic: predict one box a region, for whatever class.
        batch_size_per_image: regions that the loss is computed on, in each image.
        positive_fraction: of these, at most so many are positive.
        iou_threshold: from this IoU with an object on a region is positive, below it is negative.
        box_weights: of the box coding, see `ops.boxes.encode`.
        box_loss, smooth_l1_beta: see `BoxLoss`.
        box_loss_weight: multiplies the box loss.
        score_threshold: detections have scores above this.
        nms_threshold: IoU, within a class.
        min_side: detections with a side below this many pixels go.
        detections_per_image: the best so many are kept.

    Raises:
        ConfigError: the levels are not on offer, or do not form a pyramid, or a setting is out of its range.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: int,
        levels: Sequence[str] | None = None,
        resolution: int = 7,
        sampling_ratio: int = 0,
        aligned: bool = True,
        trunk: str | Mapping[str, Any] | nn.Module = "ConvFC",
        class_agnostic: bool = False,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        iou_threshold: float = 0.5,
        box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        box_loss: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        box_loss_weight: float = 1.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        min_side: float = 1e-2,
        detections_per_image: int = 100,
    ):
        super().__init__()
        checks.whole("BoxHead", 0, sampling_ratio=sampling_ratio)
        checks.whole(
            "BoxHead",
            1,
            num_classes=num_classes,
            resolution=resolution,
            batch_size_per_image=batch_size_per_image,
            detections_per_image=detections_per_image,
        )
        checks.share(
            "BoxHead",
            positive_fraction=positive_fraction,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
        )
        chosen = select(in_features, levels or pyramid_levels(in_features), "BoxHead")
        self.num_classes = num_classes
        self.pooler = RoIPooler(chosen, resolution, sampling_ratio, aligned)
        self.trunk = HEADS.build(trunk, in_channels=self.pooler.channels, resolution=resolution)
        self.classes = nn.Linear(self.trunk.out_channels, num_classes + 1)
        self.deltas = nn.Linear(self.trunk.out_channels, 4 if class_agnostic else 4 * num_classes)
        for predictor, std in ((self.classes, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(predictor.weight, std=std)
            nn.init.zeros_(predictor.bias)

        self.matcher = Matcher(iou_threshold, iou_threshold)
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.box_weights = box_weights
        self.box_loss = BoxLoss(box_loss, smooth_l1_beta, box_weights)
        self.box_loss_weight = box_loss_weight
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.min_side = min_side
        self.detections_per_image = detections_per_image
        self.class_rows = {"classes": ClassRows(background=1)}
        if not class_agnostic:
            self.class_rows["deltas"] = ClassRows(values=4)

    def sample(self, proposals: Proposals, targets: InstanceTargets) -> SampledRoIs:
        """The regions that this head, and those beside it, learn from; the true boxes are among them."""
        return sample_rois(
            proposals, targets, self.matcher, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits `[R, num_classes + 1]` and deltas `[R, num_classes or 1, 4]` of `R` boxes, float32.

        Args:
            boxes: `[R, 4]` in pixels of the padded batch.
            image: `[R]` int64, the image of each.
        """
        return self.predictions(self.regions(features, boxes, image))

    def regions(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """What the trunk makes of `R` boxes, `[R, C]` or `[R, C, S, S]`."""
        return self.trunk(self.pooler(features, boxes, image))

    def predictions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas, as of `forward`, from what the trunk made."""
        if x.ndim == 4:
            x = x.mean(dim=(2, 3))
        logits, deltas = at_least_float32(self.classes(x)), at_least_float32(self.deltas(x))
        return logits, deltas.reshape(len(x), deltas.shape[1] // 4, 4)

    def loss(self, features: Mapping[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Cross-entropy over all sampled regions, and box loss of the positive ones over the number of all.

        Leaves what its trunk made of the regions in `rois`, if that is maps.
        """
        slots = Slots(rois.valid)
        boxes, labels, index, positive = map(slots, (rois.boxes, rois.labels, rois.gt_index, rois.is_foreground))
        regions = self.regions(features, boxes, slots.image)
        rois.regions = regions if regions.ndim == 4 else None
        logits, deltas = self.predictions(regions)
        return self.losses(logits, deltas, boxes, labels, positive, targets.boxes[slots.image, index], slots.present)

    def losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        boxes: Tensor,
        labels: Tensor,
        positive: Tensor,
        truth: Tensor,
        present: Tensor,
    ) -> dict[str, Tensor]:
        """The losses of `R` predictions.

        Args:
            logits, deltas: from `forward`.
            boxes, labels, positive: `[R, 4]`, `[R]`, `[R]` as in SampledRoIs.
            truth: `[R, 4]` the box of the object that a positive region answers for.
            present: `[R]` bool, whether the row holds a region at all.
        """
        classification = F.cross_entropy(logits, labels, reduction="none")
        # Background has no deltas of its own; whatever is read for it is left out below.
        column = torch.where(positive, labels, 0) if deltas.shape[1] > 1 else torch.zeros_like(labels)
        deltas = deltas.gather(1, column[:, None, None].expand(-1, 1, 4))[:, 0]
        distance = self.box_loss(deltas, boxes, truth)
        box = torch.where(positive, distance, 0.0).sum() / present.sum().clamp(min=1)
        return {"box_cls": masked_mean(classification, present), "box_reg": self.box_loss_weight * box}

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], proposals: Proposals) -> list[Detections]:
        """Detections of each image, boxes in pixels of the padded batch and cut to the image."""
        slots = Slots(proposals.valid)
        boxes = slots(proposals.boxes)
        logits, deltas = self(features, boxes, slots.image)
        return self.detections(logits.softmax(dim=1), deltas, boxes, slots, proposals.sizes)

    def detections(
        self, scores: Tensor, deltas: Tensor, boxes: Tensor, slots: Slots, sizes: Tensor
    ) -> list[Detections]:
        """What `R` regions `boxes` show, given their class probabilities `[R, num_classes + 1]` and deltas."""
        scores = scores[:, : self.num_classes]
        row, label = ((scores > self.score_threshold) & slots.present[:, None]).nonzero(as_tuple=True)
        image = slots.image[row]
        found = decode(deltas[row, label if deltas.shape[1] > 1 else 0], boxes[row], self.box_weights)
        found = clip(found, sizes[image])
        wide = wide_enough(found, self.min_side).nonzero()[:, 0]
        return best_detections(
            found[wide],
            scores[row, label][wide],
            label[wide],
            image[wide],
            images=len(sizes),
            nms_threshold=self.nms_threshold,
            most=self.detections_per_image,
        )
