"""The region proposal network of Faster R-CNN (Ren et al. 2015, section 3.1), over the levels of a pyramid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate import checks
from chordate.contracts import FeatureSpec, select
from chordate.errors import ConfigError
from chordate.ops.anchors import AnchorGenerator
from chordate.ops.boxes import at_least_float32, clip, decode, wide_enough
from chordate.ops.losses import BoxLoss, masked_mean
from chordate.ops.matching import Matcher
from chordate.ops.nms import grouped_nms
from chordate.ops.sampling import sample_balanced
from chordate.registry import HEADS
from chordate.structures import InstanceTargets, Proposals

BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of the box coding; the network learns bare deltas


@dataclass
class RPNOutputs:
    """Predictions at all `A` anchors, levels one after the other.

    Attributes:
        logits: `[N, A]` float32, objectness.
        deltas: `[N, A, 4]` float32, from the anchors to the proposed boxes.
        anchors: `[A, 4]` in pixels, the same for all images.
        counts: anchors a level.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    counts: tuple[int, ...]


@HEADS.register_module()
class RPNHead(nn.Module):
    """Scores and shifts every anchor, and proposes the best boxes of each image.

    Defaults are Detectron2's for a pyramid (`Base-RCNN-FPN.yaml`).

    Args:
        in_features: the maps on offer, with equal channels.
        levels: the names of those to use; all by default.
        anchors: arguments of `AnchorGenerator` besides the strides: `sizes`, `ratios`, `rounded`,
            `stride_from_grid`.
        convs: 3 x 3 convolutions before the predictors; torchvision's `_v2` has 2.
        batch_size_per_image: anchors that the loss is computed on, in each image.
        positive_fraction: of these, at most so many are positive.
        iou_thresholds: below the first an anchor is negative, from the second on it is positive (the best
            anchors of each object always are).
        pre_nms_topk: proposals of each level before NMS, in training and in testing.
        post_nms_topk: proposals of an image after NMS, in training and in testing.
        nms_threshold: IoU.
        min_side: proposals with a side below this many pixels go.
        box_loss, smooth_l1_beta: see `BoxLoss`.
        box_loss_weight: multiplies the box loss.

    Raises:
        ConfigError: the levels are not on offer, or have different numbers of channels, or a setting is out
            of its range.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        levels: Sequence[str] | None = None,
        anchors: Mapping[str, Any] | None = None,
        convs: int = 1,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        iou_thresholds: tuple[float, float] = (0.3, 0.7),
        pre_nms_topk: tuple[int, int] = (2000, 1000),
        post_nms_topk: tuple[int, int] = (1000, 1000),
        nms_threshold: float = 0.7,
        min_side: float = 1e-3,
        box_loss: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        box_loss_weight: float = 1.0,
    ):
        super().__init__()
        checks.whole("RPNHead", 0, convs=convs)
        checks.whole("RPNHead", 1, batch_size_per_image=batch_size_per_image)
        checks.whole_pair("RPNHead", 1, pre_nms_topk=pre_nms_topk, post_nms_topk=post_nms_topk)
        checks.share("RPNHead", positive_fraction=positive_fraction, nms_threshold=nms_threshold)
        checks.rising_shares("RPNHead", iou_thresholds=iou_thresholds)
        chosen = select(in_features, levels or in_features, "RPNHead")
        channels = {spec.channels for spec in chosen.values()}
        if len(channels) != 1:
            offer = ", ".join(f"{name} ({spec})" for name, spec in chosen.items())
            raise ConfigError(f"RPNHead is shared by its levels, which must have equal channels; got {offer}")
        width = channels.pop()
        strides = [spec.stride for spec in chosen.values()]
        self.levels = tuple(chosen)
        self.anchors = AnchorGenerator(strides, **(anchors or {}))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(convs))
        self.objectness = nn.Conv2d(width, self.anchors.per_cell, 1)
        self.deltas = nn.Conv2d(width, self.anchors.per_cell * 4, 1)
        for conv in (*self.convs, self.objectness, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

        self.matcher = Matcher(iou_thresholds[1], iou_thresholds[0], low_quality=True)
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = pre_nms_topk
        self.post_nms_topk = post_nms_topk
        self.nms_threshold = nms_threshold
        self.min_side = min_side
        self.box_loss = BoxLoss(box_loss, smooth_l1_beta, BOX_WEIGHTS)
        self.box_loss_weight = box_loss_weight

    def forward(self, features: Mapping[str, Tensor]) -> RPNOutputs:
        """Predict at every anchor of the maps `[N, C, H, W]`."""
        per_cell = self.anchors.per_cell
        predictors = (self.objectness, self.deltas)  # both in one pass over the map
        weight = torch.cat([predictor.weight for predictor in predictors])
        bias = torch.cat([predictor.bias for predictor in predictors if predictor.bias is not None])
        logits, deltas, grids = [], [], []
        for name in self.levels:
            x = features[name]
            grids.append((x.shape[2], x.shape[3]))
            for conv in self.convs:
                x = F.relu(conv(x), inplace=True)
            out = at_least_float32(F.conv2d(x, weight, bias)).permute(0, 2, 3, 1)
            logits.append(out[..., :per_cell].flatten(1))
            deltas.append(out[..., per_cell:].reshape(len(out), -1, 4))
        image_size = [side * self.anchors.strides[0] for side in grids[0]]
        return RPNOutputs(
            torch.cat(logits, dim=1),
            torch.cat(deltas, dim=1),
            torch.cat(self.anchors(grids, image_size)),
            tuple(level.shape[1] for level in logits),
        )

    def loss(self, outputs: RPNOutputs, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]:
        """Objectness of the sampled anchors and boxes of the positive ones, over the number sampled in the batch."""
        matches = self.matcher(outputs.anchors[None], targets)
        chosen, positive, valid = sample_balanced(
            matches.positive, matches.negative, self.batch_size_per_image, self.positive_fraction
        )
        logits = outputs.logits.gather(1, chosen)
        classification = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")

        lead = min(int(self.batch_size_per_image * self.positive_fraction), chosen.shape[1])
        chosen, positive = chosen[:, :lead], positive[:, :lead]  # all that can be positive
        deltas = outputs.deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
        truth = matches.index.gather(1, chosen)[..., None].expand(-1, -1, 4)
        distance = self.box_loss(deltas, outputs.anchors[chosen], targets.boxes.gather(1, truth))
        box = torch.where(positive, distance, 0.0).sum() / valid.sum().clamp(min=1)
        return {"rpn_cls": masked_mean(classification, valid), "rpn_box": self.box_loss_weight * box}

    @torch.no_grad()
    def predict(self, outputs: RPNOutputs, sizes: Tensor) -> Proposals:
        """The best boxes of each image, best first, cut to the image.

        Args:
            sizes: `[N, 2]` int64, heights and widths of the images without their padding.
        """
        before, after = (topk[0 if self.training else 1] for topk in (self.pre_nms_topk, self.post_nms_topk))
        scores, places, levels, offset = [], [], [], 0
        for level, logits in enumerate(outputs.logits.split(outputs.counts, dim=1)):
            score, place = logits.topk(min(before, logits.shape[1]), dim=1)
            scores.append(score)
            places.append(place + offset)
            levels.append(torch.full_like(place, level))
            offset += logits.shape[1]
        score, place = torch.cat(scores, dim=1), torch.cat(places, dim=1)
        deltas = outputs.deltas.gather(1, place[..., None].expand(-1, -1, 4))
        boxes = clip(decode(deltas, outputs.anchors[place], BOX_WEIGHTS), sizes[:, None])
        valid = wide_enough(boxes, self.min_side)
        keep = grouped_nms(boxes, score, torch.cat(levels, dim=1), valid, self.nms_threshold)
        score, best = torch.where(keep, score, -torch.inf).topk(min(after, score.shape[1]), dim=1)
        return Proposals(boxes.gather(1, best[..., None].expand(-1, -1, 4)), score, keep.gather(1, best), sizes)
