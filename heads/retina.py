"""RetinaNet's head (Lin et al. 2017, Focal Loss for Dense Object Detection): classes and boxes at every anchor."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from chordate import checks
from chordate.contracts import ClassRows, FeatureSpec, select
from chordate.errors import ConfigError
from chordate.ops.anchors import AnchorGenerator
from chordate.ops.boxes import at_least_float32, clip, decode
from chordate.ops.detections import best_detections
from chordate.ops.losses import BoxLoss
from chordate.ops.matching import Matcher
from chordate.ops.norms import make_norm
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets

BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of the box coding; the network learns bare deltas
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # section 4: three sizes an octave
PRIOR = 0.01  # section 4.1: what every anchor scores at the start
FOCAL = {"alpha": 0.25, "gamma": 2.0}  # section 4, table 1


@dataclass
class DenseOutputs:
    """Predictions at all `A` anchors, levels one after the other.

    Attributes:
        logits: `[N, A, num_classes]` float32.
        deltas: `[N, A, 4]` float32, from the anchors to the boxes.
        anchors: `[A, 4]` in pixels, the same for all images.
        counts: anchors a level.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    counts: tuple[int, ...]


@HEADS.register_module()
class RetinaHead(nn.Module):
    """Two towers of convolutions, shared by all levels: one predicts classes, the other boxes.

    Args:
        in_features: the maps on offer, with equal channels; p3 … p7 in the paper.
        num_classes: without a background, which is where no class scores.
        levels: the names of those to use; all by default.
        anchors: arguments of `AnchorGenerator` besides the strides; by default sides of 4 strides times 1, 2^(1/3)
            and 2^(2/3), in ratios 1:2, 1:1 and 2:1.
        convs: of each tower.
        norm: after each convolution, see `make_norm`.
        iou_thresholds: below the first an anchor is negative, from the second on it is positive (the best anchors of
            each object always are).
        box_loss, smooth_l1_beta: see `BoxLoss`.
        box_loss_weight: multiplies the box loss.
        score_threshold: detections have scores above this.
        topk: candidates of each level before NMS.
        nms_threshold: IoU, within a class.
        detections_per_image: the best so many are kept.

    Raises:
        ConfigError: the levels are not on offer, or have different numbers of channels, or a setting is out of its
            range.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: int,
        levels: Sequence[str] | None = None,
        anchors: Mapping[str, Any] | None = None,
        convs: int = 4,
        norm: str | Mapping[str, Any] | None = None,
        iou_thresholds: tuple[float, float] = (0.4, 0.5),
        box_loss: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        box_loss_weight: float = 1.0,
        score_threshold: float = 0.05,
        topk: int = 1000,
        nms_threshold: float = 0.5,
        detections_per_image: int = 100,
    ):
        super().__init__()
        checks.whole("RetinaHead", 0, convs=convs)
        checks.whole("RetinaHead", 1, num_classes=num_classes, topk=topk, detections_per_image=detections_per_image)
        checks.share("RetinaHead", score_threshold=score_threshold, nms_threshold=nms_threshold)
        checks.rising_shares("RetinaHead", iou_thresholds=iou_thresholds)
        chosen = select(in_features, levels or in_features, "RetinaHead")
        channels = {spec.channels for spec in chosen.values()}
        if len(channels) != 1:
            offer = ", ".join(f"{name} ({spec})" for name, spec in chosen.items())
            raise ConfigError(f"RetinaHead is shared by its levels, which must have equal channels; got {offer}")
        width = channels.pop()
        strides = [spec.stride for spec in chosen.values()]
        sizes = [[4 * stride * scale for scale in SCALES] for stride in strides]
        self.levels = tuple(chosen)
        self.num_classes = num_classes
        self.anchors = AnchorGenerator(strides, **{"sizes": sizes, **(anchors or {})})
        self.class_tower, self.box_tower = _tower(width, convs, norm), _tower(width, convs, norm)
        self.classes = nn.Conv2d(width, self.anchors.per_cell * num_classes, 3, padding=1)
        self.deltas = nn.Conv2d(width, self.anchors.per_cell * 4, 3, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))

        self.matcher = Matcher(iou_thresholds[1], iou_thresholds[0], low_quality=True)
        self.box_loss = BoxLoss(box_loss, smooth_l1_beta, BOX_WEIGHTS)
        self.box_loss_weight = box_loss_weight
        self.score_threshold = score_threshold
        self.topk = topk
        self.nms_threshold = nms_threshold
        self.detections_per_image = detections_per_image
        self.class_rows = {"classes": ClassRows(anchors=self.anchors.per_cell)}

    def forward(self, features: Mapping[str, Tensor]) -> DenseOutputs:
        """Predict at every anchor of the maps `[N, C, H, W]`."""
        logits, deltas, grids = [], [], []
        for name in self.levels:
            x = features[name]
            grids.append((x.shape[2], x.shape[3]))
            classes, boxes = self.classes(self.class_tower(x)), self.deltas(self.box_tower(x))
            logits.append(at_least_float32(classes).permute(0, 2, 3, 1).reshape(len(x), -1, self.num_classes))
            deltas.append(at_least_float32(boxes).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        image_size = [side * self.anchors.strides[0] for side in grids[0]]
        return DenseOutputs(
            torch.cat(logits, dim=1),
            torch.cat(deltas, dim=1),
            torch.cat(self.anchors(grids, image_size)),
            tuple(level.shape[1] for level in logits),
        )

    def loss(self, outputs: DenseOutputs, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]:
        """Focal loss of all anchors but the ignored, and box loss of the positive ones, over the number of these."""
        matches = self.matcher(outputs.anchors[None], targets)
        positives = matches.positive.sum().clamp(min=1)
        label = torch.where(matches.positive, targets.labels.gather(1, matches.index), -1)
        wanted = (label[..., None] == torch.arange(self.num_classes, device=label.device)).to(outputs.logits.dtype)
        focal = sigmoid_focal_loss(outputs.logits, wanted, **FOCAL)
        counted = matches.positive | matches.negative
        truth = targets.boxes.gather(1, matches.index[..., None].expand(-1, -1, 4))
        distance = self.box_loss(outputs.deltas, outputs.anchors, truth)
        return {
            "cls": torch.where(counted[..., None], focal, 0.0).sum() / positives,
            "box": self.box_loss_weight * torch.where(matches.positive, distance, 0.0).sum() / positives,
        }

    @torch.no_grad()
    def predict(self, outputs: DenseOutputs, sizes: Tensor) -> list[Detections]:
        """Detections of each image, boxes in pixels of the padded batch and cut to the image.

        Args:
            sizes: `[N, 2]` int64, heights and widths of the images without their padding.
        """
        scores, places, offset = [], [], 0
        for logits in outputs.logits.split(outputs.counts, dim=1):
            flat = logits.sigmoid().flatten(1)
            score, place = flat.topk(min(self.topk, flat.shape[1]), dim=1)
            scores.append(score)
            places.append(place + offset)
            offset += flat.shape[1]
        score, place = torch.cat(scores, dim=1), torch.cat(places, dim=1)
        image, column = (score > self.score_threshold).nonzero(as_tuple=True)
        score, place = score[image, column], place[image, column]
        anchor, label = place // self.num_classes, place % self.num_classes
        boxes = decode(outputs.deltas[image, anchor], outputs.anchors[anchor], BOX_WEIGHTS)
        return best_detections(
            clip(boxes, sizes[image]),
            score,
            label,
            image,
            images=len(sizes),
            nms_threshold=self.nms_threshold,
            most=self.detections_per_image,
        )


def _tower(width: int, convs: int, norm: str | Mapping[str, Any] | None) -> nn.Sequential:
    tower = nn.Sequential()
    for _ in range(convs):
        conv = nn.Conv2d(width, width, 3, padding=1, bias=norm is None)
        tower.append(nn.Sequential(conv, make_norm(norm, width), nn.ReLU(inplace=True)))
    return tower
