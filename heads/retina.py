"""RetinaNet's head (Lin et al. 2017, Focal Loss for Dense Object Detection): a class and a box for every anchor."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from chordate.arguments import Fraction, NonEmpty, NonNegativeFloat, NonNegativeInt, PositiveInt
from chordate.contracts import FeatureSpec
from chordate.head_contracts import ClassRows
from chordate.heads.anchor_head import BOX_WEIGHTS, AnchorHead, AnchorOutputs, IoURange, topk_per_level
from chordate.ops.boxes import clip_boxes_to_image, decode
from chordate.ops.convolutions import conv_tower
from chordate.ops.losses import BoxLossKind
from chordate.ops.nms import select_detections, select_padded
from chordate.ops.norms import Norm
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, PaddedDetections

SIZES_PER_STRIDE = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))  # section 4: three scales per octave, from 4 × stride
PRIOR = 0.01  # section 4.1: initial foreground probability of every anchor
FOCAL = {"alpha": 0.25, "gamma": 2.0}  # section 4, table 1


@HEADS.register_module()
class RetinaHead(AnchorHead):
    """Two towers of convolutions, shared by all levels: one predicts classes, the other boxes.

    Args:
        in_features: specs of the available feature maps, with equal channels; p3 … p7 in the paper.
        num_classes: number of classes, without background (background anchors have a low score for every class).
        levels: names of the feature maps to use; all by default.
        anchors: arguments of `AnchorGenerator`, except `strides`; by default sizes of 4 × stride ×
            (1, 2^(1/3), 2^(2/3)) and aspect ratios 1:2, 1:1 and 2:1.
        convs: number of convolutions in each tower.
        norm: norm after each convolution of the towers, see `make_norm`.
        iou_thresholds: (lower, upper). Anchors are negative if their highest IoU is below `lower`, positive if it is at
            least `upper`, and otherwise ignored. For each object, the anchors with the highest IoU are also positive
            (low-quality matches); for crowds, see `Matcher`.
        box_loss, smooth_l1_beta: see `BoxLoss`.
        box_loss_weight: weight of the box loss.
        score_threshold: only detections with a score above this are kept.
        topk: maximum number of detections per level before NMS.
        nms_threshold: IoU threshold of NMS, which runs per class.
        clip_before_nms: whether boxes are clipped to the image before NMS, as in torchvision. If not, they are clipped
            after NMS and the selection by `detections_per_image`, and boxes outside the image are then dropped, as in
            Detectron2.
        detections_per_image: maximum number of detections per image; the highest-scoring are kept.

    Raises:
        ConfigError: a level does not exist, levels have different numbers of channels, or `anchors` is invalid.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        levels: Annotated[Sequence[str], NonEmpty] | None = None,
        anchors: dict[str, Any] | None = None,
        convs: NonNegativeInt = 4,
        norm: Norm = None,
        iou_thresholds: IoURange = (0.4, 0.5),
        box_loss: BoxLossKind = "smooth_l1",
        smooth_l1_beta: NonNegativeFloat = 0.0,
        box_loss_weight: NonNegativeFloat = 1.0,
        score_threshold: Fraction = 0.05,
        topk: PositiveInt = 1000,
        nms_threshold: Fraction = 0.5,
        clip_before_nms: bool = True,
        detections_per_image: PositiveInt = 100,
    ):
        anchors = anchors or {}
        if anchors.get("sizes") is None and anchors.get("sizes_per_stride") is None:
            anchors = anchors | {"sizes_per_stride": SIZES_PER_STRIDE}
        super().__init__(in_features, levels, anchors, iou_thresholds, box_loss, smooth_l1_beta)
        self.num_classes = num_classes
        self.class_tower = conv_tower(self.channels, self.channels, convs, norm, init=None)
        self.box_tower = conv_tower(self.channels, self.channels, convs, norm, init=None)
        self.cls_score = nn.Conv2d(self.channels, self.anchors.per_cell * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(self.channels, self.anchors.per_cell * 4, 3, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        assert self.cls_score.bias is not None
        nn.init.constant_(self.cls_score.bias, -math.log((1 - PRIOR) / PRIOR))
        self.box_loss_weight = box_loss_weight
        self.score_threshold = score_threshold
        self.topk = topk
        self.nms_threshold, self.clip_before_nms = nms_threshold, clip_before_nms
        self.detections_per_image = detections_per_image
        self.class_rows = {"cls_score": ClassRows(anchors=self.anchors.per_cell)}

    def forward(self, features: Mapping[str, Tensor]) -> AnchorOutputs:
        """Predict class logits and box deltas for every anchor of the feature maps `[N, C, H, W]`."""
        maps = [features[name] for name in self.levels]
        return self.concatenate((self.cls_score(self.class_tower(x)), self.bbox_pred(self.box_tower(x))) for x in maps)

    def loss(self, outputs: AnchorOutputs, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]:
        """Focal loss of all anchors that are not ignored, and box loss of the positives; both divided by the number of
        positives."""
        matches = self.matcher(outputs.anchors[None], targets)
        num_positives = matches.positive.sum().clamp(min=1)
        label = torch.where(matches.positive, targets.labels.gather(1, matches.gt_index), -1)
        one_hot = (label[..., None] == torch.arange(self.num_classes, device=label.device)).to(outputs.logits.dtype)
        focal = sigmoid_focal_loss(outputs.logits, one_hot, **FOCAL)
        counted = matches.positive | matches.negative
        truth = targets.boxes.take_along_dim(matches.gt_index[..., None], dim=1)
        distance = self.box_loss(outputs.deltas, outputs.anchors, truth)
        return {
            "cls": torch.where(counted[..., None], focal, 0.0).sum() / num_positives,
            "box": self.box_loss_weight * torch.where(matches.positive, distance, 0.0).sum() / num_positives,
        }

    def candidates(self, outputs: AnchorOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """The `topk` highest scores of each level: scores, anchor indices and labels, `[N, K]` each.

        These scores belong to the `topk` anchors with the highest maximum over the classes. These anchors are selected
        first, so that most scores (one per anchor and class) need not be sorted.
        """
        _, anchor, level = topk_per_level(outputs.logits.amax(dim=2), outputs.counts, self.topk)
        logits = outputs.logits.gather(1, anchor[..., None].expand(-1, -1, self.num_classes))
        logits = torch.where((level >= 0)[..., None], logits, -torch.inf).flatten(1)
        sizes = [self.topk if isinstance(count, torch.SymInt) else min(self.topk, count) for count in outputs.counts]
        logits, index, _ = topk_per_level(logits, [size * self.num_classes for size in sizes], self.topk)
        return logits.sigmoid(), anchor.gather(1, index // self.num_classes), index % self.num_classes

    @torch.no_grad()
    def predict(self, outputs: AnchorOutputs, sizes: Tensor) -> list[Detections]:
        """Predict the detections of each image, with boxes in pixels of the padded batch, clipped to the image.

        Args:
            outputs: from `forward`.
            sizes: `[N, 2]` int64, height and width of each image without padding.
        """
        scores, anchor, labels = self.candidates(outputs)
        image, column = (scores > self.score_threshold).nonzero(as_tuple=True)
        scores, anchor, labels = scores[image, column], anchor[image, column], labels[image, column]
        boxes = decode(outputs.deltas[image, anchor], outputs.anchors[anchor], BOX_WEIGHTS)
        detections = select_detections(
            clip_boxes_to_image(boxes, sizes[image]) if self.clip_before_nms else boxes,
            scores,
            labels,
            image,
            num_images=len(sizes),
            nms_threshold=self.nms_threshold,
            topk=self.detections_per_image,
        )
        if self.clip_before_nms:
            return detections
        clipped = [replace(own, boxes=clip_boxes_to_image(own.boxes, size)) for own, size in zip(detections, sizes)]
        return [own[(own.boxes[:, 2:] > own.boxes[:, :2]).all(dim=1)] for own in clipped]

    @torch.no_grad()
    def predict_padded(self, outputs: AnchorOutputs, sizes: Tensor) -> PaddedDetections:
        """`predict`, with shapes that do not depend on values; see `PredictsPadded`."""
        scores, anchor, labels = self.candidates(outputs)
        deltas = outputs.deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = decode(deltas, outputs.anchors[anchor], BOX_WEIGHTS)
        boxes = clip_boxes_to_image(boxes, sizes[:, None]) if self.clip_before_nms else boxes
        labels = torch.where(scores > self.score_threshold, labels, -1)
        chosen = select_padded(boxes, scores, labels, self.nms_threshold, self.detections_per_image)
        if self.clip_before_nms:
            return chosen
        boxes = clip_boxes_to_image(chosen.boxes, sizes[:, None])
        inside = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        boxes, scores = boxes.where(inside[..., None], 0.0), chosen.scores.where(inside, 0.0)
        return PaddedDetections(boxes, scores, chosen.labels.where(inside, -1))
