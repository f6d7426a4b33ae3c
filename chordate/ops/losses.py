"""Losses that detection heads share, written for static slots: every element has a mask, none is indexed away."""

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.errors import ConfigError
from chordate.ops.boxes import area, at_least_float32, decode, encode

BOX_LOSSES = ("smooth_l1", "giou")


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` where `mask` is true; 0, with its gradient still connected, where it never is."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def giou_loss(found: Tensor, boxes: Tensor) -> Tensor:
    """1 - GIoU of two boxes `[..., 4]` each, 0 … 2 (Rezatofighi et al. 2019, algorithm 1).

    torchvision's has boolean indexing in it, which waits for the device and cannot be compiled.
    """
    outer, inner = torch.maximum(found, boxes), torch.minimum(found, boxes)
    width, height = (inner[..., 2:] - outer[..., :2]).clamp(min=0).unbind(-1)
    shared = width * height
    union = area(found) + area(boxes) - shared
    hull_area = area(torch.cat((inner[..., :2], outer[..., 2:]), dim=-1))
    tiny = 1e-7  # two boxes without extent share nothing
    return 1 - shared / (union + tiny) + (hull_area - union) / (hull_area + tiny)


class BoxLoss:
    """How far predicted deltas are from leading to the true boxes, a number for each box.

    Args:
        kind: "smooth_l1" on the deltas (Fast R-CNN, equation 3), summed over the four of them, or "giou" on
            the boxes that they lead to (Rezatofighi et al. 2019).
        beta: where smooth L1 passes from square to absolute value; 0 makes it plain L1, the default in
            Detectron2; torchvision has 1/9.
        weights: of the box coding, see `ops.boxes.encode`.

    Raises:
        ConfigError: an unknown kind.
    """

    def __init__(self, kind: str, beta: float, weights: tuple[float, float, float, float]):
        if kind not in BOX_LOSSES:
            raise ConfigError(f'unknown box_loss "{kind}"; it is {" or ".join(BOX_LOSSES)}')
        self.kind = kind
        self.beta = beta
        self.weights = weights

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """`[..., 4]` each (deltas predicted from `references`; the true `boxes`) to `[...]`."""
        deltas = at_least_float32(deltas)
        boxes = boxes.to(deltas.dtype)
        if self.kind == "giou":
            return giou_loss(decode(deltas, references, self.weights), boxes)
        wanted = encode(boxes, references, self.weights)
        return F.smooth_l1_loss(deltas, wanted, reduction="none", beta=self.beta).sum(dim=-1)
