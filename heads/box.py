"""Box head of Fast R-CNN (Girshick 2015, section 2): classifies regions and refines their boxes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import Fraction, NonEmpty, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from chordate.contracts import FeatureSpec, select
from chordate.head_contracts import ClassRows, RoITrunk
from chordate.ops.boxes import at_least_float32, clip_boxes_to_image, decode, is_nonempty
from chordate.ops.losses import BoxLoss, BoxLossKind, masked_mean
from chordate.ops.matching import Matcher
from chordate.ops.nms import select_detections, select_padded
from chordate.ops.padded_index import PaddedIndex
from chordate.ops.pooling import RoIPooler, pyramid_levels
from chordate.ops.sampling import sample_rois
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, PaddedDetections, Proposals, SampledRoIs
from chordate.structures.detection import image_of_rows

MAX_CANDIDATES = 2000  # candidates for NMS per image, in exported models
BoxWeights = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


@HEADS.register_module()
class BoxHead(nn.Module):
    """Pools regions, passes them through a trunk, and predicts a class and, for each class, a refined box.

    The last of the `num_classes + 1` class scores is the background's. The defaults are Detectron2's for
    FPN (`Base-RCNN-FPN.yaml`).

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes without background.
        levels: names of the feature maps to pool from; all up to stride 32 by default.
        resolution, sampling_ratio, aligned: see `RoIPooler`.
        trunk: module from pooled regions `[R, C, resolution, resolution]` to either vectors `[R, out_channels]` or
            feature maps `[R, out_channels, S, S]`, which are average-pooled; built with `in_channels` and `resolution`.
        class_agnostic: whether to predict one box per region instead of one per region and class.
        batch_size_per_image: number of regions sampled per image for the loss.
        positive_fraction: maximum number of positive regions, as a fraction of `batch_size_per_image`.
        iou_threshold: regions whose IoU with an object is at least this are positive; all others are negative, except
            in crowds (see `Matcher`).
        box_weights: weights of the box encoding, see `ops.boxes.encode`.
        box_loss, smooth_l1_beta: see `BoxLoss`.
        box_loss_weight: weight of the box loss.
        score_threshold: only detections with a score above this are kept.
        nms_threshold: IoU threshold of NMS, which runs per class.
        min_side: minimum side of detections in pixels; smaller detections are dropped.
        detections_per_image: maximum number of detections per image; the highest-scoring are kept.

    Raises:
        ConfigError: a level does not exist, or the levels' channels or strides do not suit `RoIPooler`.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        levels: Annotated[Sequence[str], NonEmpty] | None = None,
        resolution: PositiveInt = 7,
        sampling_ratio: NonNegativeInt = 0,
        aligned: bool = True,
        trunk: str | Mapping[str, Any] | nn.Module = "ConvFC",
        class_agnostic: bool = False,
        batch_size_per_image: PositiveInt = 512,
        positive_fraction: Fraction = 0.25,
        iou_threshold: Fraction = 0.5,
        box_weights: BoxWeights = (10.0, 10.0, 5.0, 5.0),
        box_loss: BoxLossKind = "smooth_l1",
        smooth_l1_beta: NonNegativeFloat = 0.0,
        box_loss_weight: NonNegativeFloat = 1.0,
        score_threshold: Fraction = 0.05,
        nms_threshold: Fraction = 0.5,
        min_side: NonNegativeFloat = 1e-2,
        detections_per_image: PositiveInt = 100,
    ):
        super().__init__()
        chosen = select(in_features, levels or pyramid_levels(in_features), "BoxHead")
        self.num_classes = num_classes
        self.pooler = RoIPooler(chosen, resolution, sampling_ratio, aligned)
        self.trunk: RoITrunk = HEADS.build(
            trunk, contract=RoITrunk, in_channels=self.pooler.channels, resolution=resolution
        )
        self.cls_score = nn.Linear(self.trunk.out_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(self.trunk.out_channels, 4 if class_agnostic else 4 * num_classes)
        for predictor, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
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
        self.class_rows = {"cls_score": ClassRows(background=1)}
        if not class_agnostic:
            self.class_rows["bbox_pred"] = ClassRows(values=4)

    def sample(self, proposals: Proposals, targets: InstanceTargets) -> SampledRoIs:
        """Sample the regions on which the box, mask and keypoint heads train, from proposals and ground-truth boxes."""
        return sample_rois(
            proposals, targets, self.matcher, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Predict class logits `[R, num_classes + 1]` and deltas `[R, num_classes, 4]` of `R` boxes, float32.

        Class-agnostic deltas are `[R, 1, 4]`.

        Args:
            features: dict from name to feature map `[N, C, H, W]`.
            boxes: `[R, 4]` in pixels of the padded batch.
            image: `[R]` int64, image index of each box.
        """
        return self.predictions(self.roi_features(features, boxes, image))

    def roi_features(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """The trunk's output for `R` boxes, `[R, C]` or `[R, C, S, S]`."""
        return self.trunk(self.pooler(features, boxes, image))

    def predictions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and deltas as in `forward` from the output `x` of `roi_features`."""
        if x.ndim == 4:
            x = x.mean(dim=(2, 3))
        logits, deltas = at_least_float32(self.cls_score(x)), at_least_float32(self.bbox_pred(x))
        return logits, deltas.reshape(x.shape[0], deltas.shape[1] // 4, 4)

    def loss(
        self,
        features: Mapping[str, Tensor],
        rois: SampledRoIs,
        targets: InstanceTargets,
        roi_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy of all sampled regions, and box loss of the positives; both divided by the number of samples.

        Args:
            roi_features: output of `roi_features` for the rows of `PaddedIndex(rois.valid)`, if it is already computed.
        """
        index = PaddedIndex(rois.valid)
        boxes = index.flatten(rois.boxes)
        if roi_features is None:
            roi_features = self.roi_features(features, boxes, index.image)
        logits, deltas = self.predictions(roi_features)
        return self.losses(logits, deltas, boxes, index, rois, targets)

    def losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        boxes: Tensor,
        index: PaddedIndex,
        rois: SampledRoIs,
        targets: InstanceTargets,
    ) -> dict[str, Tensor]:
        """Compute the losses of the predictions for `R` regions.

        Args:
            logits, deltas: from `forward`.
            boxes: `[R, 4]`, the boxes of `rois`, flattened by `index`.
            index: PaddedIndex of the valid regions of `rois`.
        """
        labels, gt_index, positive = map(index.flatten, (rois.labels, rois.gt_index, rois.is_foreground))
        classification = F.cross_entropy(logits, labels, reduction="none")
        # Background has no deltas, so column 0 is gathered for background regions, and masked below.
        column = torch.where(positive, labels, 0) if deltas.shape[1] > 1 else torch.zeros_like(labels)
        deltas = deltas.take_along_dim(column[:, None, None], dim=1)[:, 0]
        distance = self.box_loss(deltas, boxes, targets.boxes[index.image, gt_index])
        box = torch.where(positive, distance, 0.0).sum() / index.present.sum().clamp(min=1)
        return {"box_cls": masked_mean(classification, index.present), "box_reg": self.box_loss_weight * box}

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], proposals: Proposals) -> list[Detections]:
        """Predict the detections of each image, with boxes in pixels of the padded batch, clipped to the image."""
        index = PaddedIndex(proposals.valid)
        boxes = index.flatten(proposals.boxes)
        logits, deltas = self(features, boxes, index.image)
        return self.detections(logits.softmax(dim=1), deltas, boxes, index, proposals.sizes)

    @torch.no_grad()
    def predict_padded(self, features: Mapping[str, Tensor], proposals: Proposals) -> PaddedDetections:
        """`predict`, with shapes that do not depend on values; see `PredictsPadded`."""
        logits, deltas = self(features, proposals.boxes.flatten(0, 1), image_of_rows(proposals.valid))
        return self.padded_detections(logits.softmax(dim=1), deltas, proposals)

    def padded_detections(self, scores: Tensor, deltas: Tensor, proposals: Proposals) -> PaddedDetections:
        """Convert the predictions for `P` padded proposals per image to detections.

        NMS processes the `MAX_CANDIDATES` highest scores of each image. Lower scores would matter only if NMS kept
        fewer than `detections_per_image` of these candidates.

        Args:
            scores: `[N * P, num_classes + 1]`, class probabilities.
            deltas: as in `forward`, for `N * P` boxes.
            proposals: the proposals of `N` images.
        """
        images, slots = proposals.valid.shape
        scores = scores[:, : self.num_classes].unflatten(0, (images, slots))
        scores = torch.where(proposals.valid[..., None], scores, 0.0).flatten(1)
        scores, column = scores.topk(min(MAX_CANDIDATES, slots * self.num_classes), dim=1)
        row, labels = column // self.num_classes, column % self.num_classes
        boxes = proposals.boxes.gather(1, row[..., None].expand(-1, -1, 4))
        column = column if deltas.shape[1] > 1 else row
        deltas = deltas.flatten(0, 1).unflatten(0, (images, -1)).gather(1, column[..., None].expand(-1, -1, 4))
        refined = clip_boxes_to_image(decode(deltas, boxes, self.box_weights), proposals.sizes[:, None])
        present = (scores > self.score_threshold) & is_nonempty(refined, self.min_side)
        labels = torch.where(present, labels, -1)
        return select_padded(refined, scores, labels, self.nms_threshold, self.detections_per_image)

    def detections(
        self, scores: Tensor, deltas: Tensor, boxes: Tensor, index: PaddedIndex, sizes: Tensor
    ) -> list[Detections]:
        """Convert the predictions for `R` regions to the detections of each image.

        Args:
            scores: `[R, num_classes + 1]`, class probabilities.
            deltas: as in `forward`.
            boxes: `[R, 4]`, the regions, in pixels of the padded batch.
            index: PaddedIndex of the regions.
            sizes: `[N, 2]` int64, height and width of each image without padding.
        """
        scores = scores[:, : self.num_classes]
        row, labels = ((scores > self.score_threshold) & index.present[:, None]).nonzero(as_tuple=True)
        image = index.image[row]
        refined = decode(deltas[row, labels if deltas.shape[1] > 1 else 0], boxes[row], self.box_weights)
        refined = clip_boxes_to_image(refined, sizes[image])
        kept = is_nonempty(refined, self.min_side).nonzero()[:, 0]
        return select_detections(
            refined[kept],
            scores[row, labels][kept],
            labels[kept],
            image[kept],
            num_images=len(sizes),
            nms_threshold=self.nms_threshold,
            topk=self.detections_per_image,
        )
