"""Region proposal network of Faster R-CNN (Ren et al. 2015, section 3.1), on the levels of a feature pyramid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import Fraction, NonEmpty, NonNegativeFloat, NonNegativeInt, PositiveInt
from chordate.contracts import FeatureSpec
from chordate.heads.anchor_head import BOX_WEIGHTS, AnchorHead, AnchorOutputs, IoURange, topk_per_level
from chordate.ops.boxes import clip_boxes_to_image, decode, is_nonempty
from chordate.ops.losses import BoxLossKind, masked_mean
from chordate.ops.nms import padded_nms
from chordate.ops.sampling import sample_balanced
from chordate.registry import HEADS
from chordate.structures import InstanceTargets, Proposals


@HEADS.register_module()
class RPNHead(AnchorHead):
    """Predicts objectness and a box for every anchor, and proposes the top-scoring boxes of each image.

    The defaults are Detectron2's for FPN (`Base-RCNN-FPN.yaml`).

    Args:
        in_features: specs of the available feature maps, with equal channels.
        levels: names of the feature maps to use; all by default.
        anchors: arguments of `AnchorGenerator`, except `strides`: `sizes`, `ratios`, `rounded`, `stride_from_grid`.
        convs: number of 3×3 convolutions before the predictors; torchvision's `_v2` models have 2.
        batch_size_per_image: number of anchors sampled per image for the loss.
        positive_fraction: maximum number of positive anchors, as a fraction of `batch_size_per_image`.
        iou_thresholds: (lower, upper). Anchors are negative if their highest IoU is below `lower`, positive if it is at
            least `upper`, and otherwise ignored; for crowds, see `Matcher`.
        low_quality_iou: for each object, the anchors with the highest IoU are also positive (low-quality matches) if
            this IoU is above 0 and at least `low_quality_iou`.
        pre_nms_topk: (training, testing): maximum number of proposals per level before NMS.
        post_nms_topk: (training, testing): maximum number of proposals per image after NMS.
        nms_threshold: IoU threshold of NMS, which runs per level.
        min_side: minimum side of proposals in pixels; smaller proposals are dropped.
        box_loss, smooth_l1_beta: see `BoxLoss`.
        box_loss_weight: weight of the box loss.

    Raises:
        ConfigError: a level does not exist, levels have different numbers of channels, or `anchors` is invalid.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        levels: Annotated[Sequence[str], NonEmpty] | None = None,
        anchors: dict[str, Any] | None = None,
        convs: NonNegativeInt = 1,
        batch_size_per_image: PositiveInt = 256,
        positive_fraction: Fraction = 0.5,
        iou_thresholds: IoURange = (0.3, 0.7),
        low_quality_iou: Fraction = 0.0,
        pre_nms_topk: tuple[PositiveInt, PositiveInt] = (2000, 1000),
        post_nms_topk: tuple[PositiveInt, PositiveInt] = (1000, 1000),
        nms_threshold: Fraction = 0.7,
        min_side: NonNegativeFloat = 1e-3,
        box_loss: BoxLossKind = "smooth_l1",
        smooth_l1_beta: NonNegativeFloat = 0.0,
        box_loss_weight: NonNegativeFloat = 1.0,
    ):
        super().__init__(in_features, levels, anchors or {}, iou_thresholds, box_loss, smooth_l1_beta, low_quality_iou)
        width, per_cell = self.channels, self.anchors.per_cell
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(convs))
        self.objectness_logits = nn.Conv2d(width, per_cell, 1)
        self.anchor_deltas = nn.Conv2d(width, per_cell * 4, 1)
        for conv in (*self.convs, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = pre_nms_topk
        self.post_nms_topk = post_nms_topk
        self.nms_threshold = nms_threshold
        self.min_side = min_side
        self.box_loss_weight = box_loss_weight

    def forward(self, features: Mapping[str, Tensor]) -> AnchorOutputs:
        """Predict objectness logits `[N, A]` and box deltas for every anchor of the feature maps `[N, C, H, W]`."""
        # One convolution with the weights of both predictors reads each feature map only once.
        predictors = (self.objectness_logits, self.anchor_deltas)
        weight = torch.cat([predictor.weight for predictor in predictors])
        bias = torch.cat([predictor.bias for predictor in predictors if predictor.bias is not None])
        levels, per_cell = [], self.anchors.per_cell
        for name in self.levels:
            x = features[name]
            for conv in self.convs:
                x = F.relu(conv(x), inplace=True)
            # Unlike slices, one split keeps the gradient contiguous, in the convolution's NHWC layout.
            levels.append(F.conv2d(x, weight, bias).split([per_cell, 4 * per_cell], dim=1))
        outputs = self.concatenate(levels)
        return replace(outputs, logits=outputs.logits.squeeze(-1))

    def loss(self, outputs: AnchorOutputs, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]:
        """Objectness loss of sampled anchors and box loss of positive ones, both divided by the number of samples."""
        matches = self.matcher(outputs.anchors[None], targets)
        chosen, positive, valid = sample_balanced(
            matches.positive, matches.negative, self.batch_size_per_image, self.positive_fraction
        )
        logits = outputs.logits.gather(1, chosen)
        classification = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")

        max_positives = min(int(self.batch_size_per_image * self.positive_fraction), chosen.shape[1])
        chosen, positive = chosen[:, :max_positives], positive[:, :max_positives]
        deltas = outputs.deltas.take_along_dim(chosen[..., None], dim=1)
        truth = targets.boxes.take_along_dim(matches.gt_index.gather(1, chosen)[..., None], dim=1)
        distance = self.box_loss(deltas, outputs.anchors[chosen], truth)
        box = torch.where(positive, distance, 0.0).sum() / valid.sum().clamp(min=1)
        return {"rpn_cls": masked_mean(classification, valid), "rpn_box": self.box_loss_weight * box}

    @torch.no_grad()
    def predict(self, outputs: AnchorOutputs, sizes: Tensor, training: bool = False) -> Proposals:
        """Predict the top-scoring proposals of each image after NMS, by descending score, clipped to the image.

        Args:
            outputs: from `forward`.
            sizes: `[N, 2]` int64, height and width of each image without padding.
            training: whether to use the training limits of `pre_nms_topk` and `post_nms_topk`, not the testing limits.
        """
        pre_nms_topk, post_nms_topk = (topk[0 if training else 1] for topk in (self.pre_nms_topk, self.post_nms_topk))
        scores, index, level = topk_per_level(outputs.logits, outputs.counts, pre_nms_topk)
        deltas = outputs.deltas.gather(1, index[..., None].expand(-1, -1, 4))
        boxes = clip_boxes_to_image(decode(deltas, outputs.anchors[index], BOX_WEIGHTS), sizes[:, None])
        groups = torch.where(is_nonempty(boxes, self.min_side), level, -1)
        keep = padded_nms(boxes, scores, groups, self.nms_threshold)
        scores, best = torch.where(keep, scores, -torch.inf).topk(min(post_nms_topk, scores.shape[1]), dim=1)
        return Proposals(boxes.gather(1, best[..., None].expand(-1, -1, 4)), scores, keep.gather(1, best), sizes)
