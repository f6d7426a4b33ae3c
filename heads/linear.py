"""Classification head: global average pooling and a linear layer (He et al. 2016, table 1)."""

import math
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import Fraction, PositiveInt, ProperFraction
from chordate.contracts import FeatureSpec
from chordate.head_contracts import ClassRows
from chordate.ops.boxes import at_least_float32
from chordate.registry import HEADS


@HEADS.register_module()
class ClassificationHead(nn.Module):
    """Averages the coarsest feature map over space (and time, for clips), and predicts a score for every class.

    Args:
        in_features: specs of the available feature maps; the last one is used.
        num_classes: number of classes.
        dropout: dropout probability of the pooled features.
        norm: "LN" for a LayerNorm after pooling (ConvNeXt; Liu et al. 2022, section 2), or None.
        loss: "softmax" for cross-entropy, or "binary" for binary cross-entropy of every class (Wightman et al. 2021,
            section 3.2).
        label_smoothing: fraction of the target that is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        dropout: ProperFraction = 0.0,
        norm: Literal["LN"] | None = None,
        loss: Literal["softmax", "binary"] = "softmax",
        label_smoothing: Fraction = 0.0,
    ):
        super().__init__()
        self.level, spec = list(in_features.items())[-1]
        self.norm = nn.LayerNorm(spec.channels, eps=1e-6) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(spec.channels, num_classes)
        self.binary, self.label_smoothing = loss == "binary", label_smoothing
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        # Binary: all scores start at about 1 / num_classes, a low prior like RetinaNet's. With zero bias, they would
        # start at 0.5, and the first steps would only lower them.
        nn.init.constant_(self.fc.bias, -math.log(num_classes) if self.binary else 0.0)
        self.class_rows = {"fc": ClassRows()}
        self.final_layers = {"linear": "fc", "norm": "norm"}

    def pool(self, features: Mapping[str, Tensor]) -> Tensor:
        """Pooled features `[N, C]`: the mean of the last feature map `[N, C, ..., H, W]`, then the norm (if any), in
        the weights' data type."""
        x = at_least_float32(features[self.level])
        return self.norm(x.mean(dim=tuple(range(2, x.ndim))).to(self.fc.weight.dtype))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Predict logits `[N, num_classes]`, float32."""
        return at_least_float32(self.fc(self.dropout(self.pool(features))))

    def loss(self, logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Compute the loss, averaged over `N` images, and with the binary loss also over the classes.

        Args:
            logits: `[N, num_classes]`.
            truth: labels `[N]` int64, or soft targets `[N, num_classes]`, each row summing to 1 (MixUp, CutMix).
        """
        if not self.binary:
            return {"cls": F.cross_entropy(logits, truth, label_smoothing=self.label_smoothing)}
        if truth.ndim == 1:
            truth = F.one_hot(truth, logits.shape[1])
        weights = truth.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[1]
        return {"cls": F.binary_cross_entropy_with_logits(logits, weights)}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Convert logits to class probabilities `[N, num_classes]`."""
        return logits.sigmoid() if self.binary else logits.softmax(dim=1)
