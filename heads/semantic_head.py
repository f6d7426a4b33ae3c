"""SemanticHead: the base class of heads that predict a class per pixel."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import PositiveInt, ProperFraction
from chordate.head_contracts import ClassRows
from chordate.ops.boxes import at_least_float32
from chordate.registry import LOSSES

Losses = Sequence[Mapping[str, Any]]


class SemanticHead(nn.Module):
    """A 1×1 convolution from a map to the classes, and the losses.

    A subclass computes that map: `features(maps)` gives `[N, channels, h, w]`.

    Args:
        channels: of the map.
        num_classes: number of classes.
        dropout: fraction of the map's channels dropped in training, before the convolution.
        losses: dicts with `type`, whose values are summed; None for the cross-entropy.
    """

    def __init__(
        self,
        channels: PositiveInt,
        num_classes: PositiveInt,
        dropout: ProperFraction = 0.0,
        losses: Losses | None = None,
    ):
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.logits: nn.Module = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.logits.weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.logits.bias)  # type: ignore[arg-type]
        self.losses = nn.ModuleList(LOSSES.build(loss) for loss in losses or [{"type": "CrossEntropy"}])
        self.class_rows: Mapping[str, ClassRows] = {"logits": ClassRows()}

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The map `[N, channels, h, w]` that the classes are predicted from, from maps `[N, C, H, W]` by name."""
        raise NotImplementedError

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Logits `[N, num_classes, h, w]`, float32 or wider."""
        return at_least_float32(self.logits(self.dropout(self.features(maps))))

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The sum of the losses, of logits that are resized to the labels.

        Args:
            logits: `[N, num_classes, h, w]`.
            labels: `[N, H, W]` int16, `IGNORED` where no loss is wanted.
        """
        resized = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        return {"semantic": sum(loss(resized, labels) for loss in self.losses)}  # type: ignore[dict-item]
