"""Losses of detection heads; to keep shapes static, they mask elements instead of selecting them by index."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.ops.boxes import area, at_least_float32, decode, encode

BoxLossKind = Literal["smooth_l1", "giou"]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` where `mask` is true; 0 (with a gradient of 0) if `mask` is false everywhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def giou_loss(predicted: Tensor, boxes: Tensor) -> Tensor:
    """1 - GIoU of pairs of boxes, `[..., 4]` each; values 0 … 2 (Rezatofighi et al. 2019, algorithm 1).

    torchvision's version uses boolean indexing, which needs a host sync and breaks compiled graphs.
    """
    outer, inner = torch.maximum(predicted, boxes), torch.minimum(predicted, boxes)
    width, height = (inner[..., 2:] - outer[..., :2]).clamp(min=0).unbind(-1)
    shared = width * height
    union = area(predicted) + area(boxes) - shared
    enclosing_area = area(torch.cat((inner[..., :2], outer[..., 2:]), dim=-1))
    tiny = 1e-7  # avoids division by zero for two empty boxes
    return 1 - shared / (union + tiny) + (enclosing_area - union) / (enclosing_area + tiny)


class BoxLoss:
    """The box regression loss, one value per box.

    Args:
        kind: "smooth_l1" for smooth L1 of the deltas, summed over the four deltas of a box (Fast R-CNN, equation 3), or
            "giou" for the GIoU loss of the decoded boxes (Rezatofighi et al. 2019).
        beta: the absolute difference at which smooth L1 changes from quadratic to linear. 0 is L1 (Detectron2's
            default); torchvision uses 1/9.
        weights: weights of the box encoding, see `ops.boxes.encode`.
    """

    def __init__(self, kind: BoxLossKind, beta: float, weights: tuple[float, float, float, float]):
        self.kind = kind
        self.beta = beta
        self.weights = weights

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """Compute the loss `[...]` of each box.

        Args:
            deltas: `[..., 4]`, the predicted offsets from `references`.
            references: `[..., 4]`, anchors or proposals.
            boxes: `[..., 4]`, the ground truth.
        """
        deltas = at_least_float32(deltas)
        boxes = boxes.to(deltas.dtype)
        if self.kind == "giou":
            return giou_loss(decode(deltas, references, self.weights), boxes)
        targets = encode(boxes, references, self.weights)
        return F.smooth_l1_loss(deltas, targets, reduction="none", beta=self.beta).sum(dim=-1)
