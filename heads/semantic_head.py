"""Base class of semantic segmentation heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import PositiveInt, ProperFraction
from chordate.contracts import FeatureSpec, select
from chordate.errors import ConfigError
from chordate.head_contracts import ClassRows
from chordate.ops.boxes import at_least_float32
from chordate.pixel_contracts import check_pixel_loss
from chordate.registry import LOSSES

Losses = Sequence[Mapping[str, Any]]


class SemanticHead(nn.Module):
    """Base class of heads that predict a class per pixel.

    A subclass computes a feature map in `features`; this class predicts logits from it by dropout and a 1×1
    convolution, and computes the losses.

    Args:
        channels: number of channels of the feature map that `features` returns.
        num_classes: number of classes.
        dropout: probability of dropping a channel of this feature map.
        losses: configs of losses in LOSSES, which are summed in training; None for CrossEntropy.

    Raises:
        ConfigError: a loss breaks its contract, see `check_pixel_loss`.
    """

    def __init__(
        self,
        channels: PositiveInt,
        num_classes: PositiveInt,
        dropout: ProperFraction = 0.0,
        losses: Losses | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.dropout = nn.Dropout2d(dropout)
        self.logits: nn.Module = nn.Conv2d(channels, num_classes, 1)
        nn.init.xavier_uniform_(self.logits.weight)  # type: ignore[arg-type] # its scale follows the number of channels
        nn.init.zeros_(self.logits.bias)  # type: ignore[arg-type]
        built = [LOSSES.build(loss) for loss in losses or [{"type": "CrossEntropy"}]]
        for loss in built:
            check_pixel_loss(loss, num_classes)
        self.losses = nn.ModuleList(built)
        self.loss_names = _loss_names(built)
        self.class_rows: Mapping[str, ClassRows] = {"logits": ClassRows()}

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Compute the feature map `[N, channels, h, w]` from feature maps `[N, C, H, W]`, keyed by name."""
        raise ConfigError(f"{type(self).__name__} does not implement SemanticHead.features, which is required")

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Predict logits `[N, num_classes, h, w]`, at least float32, from feature maps keyed by name."""
        features = self.features(maps)
        if features.shape[1] != self.channels:
            name, got = type(self).__name__, list(features.shape)
            raise ConfigError(f"{name}.features must return [N, {self.channels}, h, w] as set by `channels`; got {got}")
        return at_least_float32(self.logits(self.dropout(features)))

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the losses, after bilinear resizing of the logits to the size of the labels.

        Args:
            logits: `[N, num_classes, h, w]`.
            labels: `[N, H, W]` int16; pixels with the label `IGNORED` do not contribute.
            weights: `[N, H, W]`, pixel weights, which every loss must accept; None to call the losses without weights.

        Returns:
            Scalar losses keyed by name: `semantic`, or for several losses `semantic_CrossEntropy`, `semantic_Dice` ….
        """
        resized = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        inputs = (labels,) if weights is None else (labels, weights)
        return {name: loss(resized, *inputs) for name, loss in zip(self.loss_names, self.losses)}


def select_level(in_features: Mapping[str, FeatureSpec], level: str | None, head: str) -> tuple[str, FeatureSpec]:
    """Name and spec of the feature map `level`, by default of the coarsest one; `head` is for error messages."""
    ((name, spec),) = select(in_features, [level or list(in_features)[-1]], head).items()
    return name, spec


def _loss_names(losses: Sequence[nn.Module]) -> list[str]:
    """The key of each loss in the result of `SemanticHead.loss`; losses of the same type are numbered."""
    if len(losses) == 1:
        return ["semantic"]
    types = [type(loss).__name__ for loss in losses]
    return [
        f"semantic_{name}" + (f"_{types[: i + 1].count(name)}" if types.count(name) > 1 else "")
        for i, name in enumerate(types)
    ]
