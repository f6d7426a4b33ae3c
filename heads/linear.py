"""The classification head: global average pooling and one linear layer (He et al. 2016, table 1)."""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from chordate import checks
from chordate.contracts import ClassRows, FeatureSpec
from chordate.errors import ConfigError, unknown
from chordate.ops.boxes import at_least_float32
from chordate.registry import HEADS

LOSSES = ("softmax", "binary")


@HEADS.register_module()
class ClassificationHead(nn.Module):
    """Averages the coarsest map over its cells and scores every class.

    Args:
        in_features: the maps on offer; the last is used.
        num_classes: of the scores.
        dropout: share of the pooled channels that are left out in training.
        norm: "LN" for a LayerNorm after pooling (ConvNeXt; Liu et al. 2022, section 2), or None.
        loss: "softmax" cross-entropy, or "binary": each class for itself (Wightman et al. 2021, section 3.2).
        label_smoothing: how much of the truth is spread over all classes (Szegedy et al. 2016, section 7).

    Raises:
        ConfigError: an unknown loss or norm, or a share that is none.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: int,
        dropout: float = 0.0,
        norm: str | None = None,
        loss: str = "softmax",
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        checks.whole("ClassificationHead", 1, num_classes=num_classes)
        checks.share("ClassificationHead", dropout=dropout, label_smoothing=label_smoothing)
        if loss not in LOSSES:
            raise ConfigError(unknown("loss of ClassificationHead", str(loss), LOSSES))
        if norm not in (None, "LN"):
            raise ConfigError(f'ClassificationHead: norm is "LN" or None, not {norm!r}')
        self.level, spec = list(in_features.items())[-1]
        self.norm = nn.LayerNorm(spec.channels, eps=1e-6) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(spec.channels, num_classes)
        self.binary, self.label_smoothing = loss == "binary", label_smoothing
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        # Binary losses start from classes that are all unlikely, else the first steps teach only that.
        nn.init.constant_(self.fc.bias, -math.log(num_classes) if self.binary else 0.0)
        self.class_rows = {"fc": ClassRows()}

    def pool(self, features: Mapping[str, Tensor]) -> Tensor:
        """What the classes are told by: the last map averaged over its cells, `[N, C]`, float32."""
        return self.norm(at_least_float32(features[self.level]).mean(dim=(2, 3)))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Scores `[N, num_classes]` before softmax or sigmoid, float32."""
        return at_least_float32(self.fc(self.dropout(self.pool(features))))

    def loss(self, logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The mean loss of `N` images.

        Args:
            logits: `[N, num_classes]`.
            truth: `[N]` int64, or `[N, num_classes]` shares that add up to 1 (mixed images).
        """
        if not self.binary:
            return {"cls": F.cross_entropy(logits, truth, label_smoothing=self.label_smoothing)}
        if truth.ndim == 1:
            truth = F.one_hot(truth, logits.shape[1])
        shares = truth.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[1]
        return {"cls": F.binary_cross_entropy_with_logits(logits, shares)}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the scores, `[N, num_classes]` 0 … 1."""
        return logits.sigmoid() if self.binary else logits.softmax(dim=1)
