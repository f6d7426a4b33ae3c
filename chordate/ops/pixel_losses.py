"""Losses for semantic segmentation. Inputs are logits `[N, K, H, W]` of `K` classes, and labels `[N, H, W]`.

A loss may also take weights of the pixels, `[N, H, W]`. Pixels with the label `IGNORED` have a loss of 0. A batch
without labeled pixels has a loss of 0; this case needs no host sync, because the denominators are never 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import Fraction, NonNegativeFloat, PositiveFloat, PositiveFraction
from chordate.errors import ConfigError
from chordate.registry import LOSSES
from chordate.structures.semantic import IGNORED


@LOSSES.register_module()
class CrossEntropy(nn.Module):
    """Softmax cross-entropy, averaged over the labeled pixels.

    Args:
        class_weights: weight of each class in the mean, as in `torch.nn.CrossEntropyLoss`; None for equal weights.
        loss_weight: factor of the loss.
        hard_fraction: fraction of the labeled pixels that contribute to the loss: those with the largest losses
            (online hard example mining, Shrivastava et al. 2016); 1 for all pixels.
        label_smoothing: fraction of the target that is spread evenly over all classes.
        count_ignored: whether `IGNORED` pixels count in the mean and in `hard_fraction`, with a loss of 0, as in
            Detectron2's "hard_pixel_mining" and in MMSegmentation (`avg_non_ignore=False`).
    """

    def __init__(
        self,
        class_weights: Sequence[NonNegativeFloat] | None = None,
        loss_weight: NonNegativeFloat = 1.0,
        hard_fraction: PositiveFraction = 1.0,
        label_smoothing: Fraction = 0.0,
        count_ignored: bool = False,
    ):
        super().__init__()
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None if class_weights is None else torch.tensor(class_weights), False)
        self.loss_weight, self.hard_fraction, self.label_smoothing = loss_weight, hard_fraction, label_smoothing
        self.count_ignored = count_ignored

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: `[N, K, H, W]`.
            labels: `[N, H, W]` integers.
            weights: `[N, H, W]`, factor of each pixel's loss, applied before the hardest pixels are chosen. The
                denominator of the mean does not include it, so larger weights increase the loss. None for factors of 1.

        Raises:
            ConfigError: the number of `class_weights` is not the number of classes.
        """
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ConfigError(
                f"CrossEntropy: class_weights has {len(self.class_weights)} entries for {logits.shape[1]} classes; "
                f"give one per class"
            )
        labels = labels.long()
        losses = F.cross_entropy(
            logits,
            labels,
            self.class_weights,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        if weights is not None:
            losses = losses * weights
        labeled = labels != IGNORED
        counts = torch.ones_like(losses) if self.count_ignored else labeled.to(losses.dtype)
        if self.class_weights is not None:
            counts = torch.where(labeled, self.class_weights[labels.clamp(min=0)].to(losses.dtype), counts)
        if self.hard_fraction < 1:
            losses, counts = self._hardest(losses.flatten(), counts.flatten())
        return self.loss_weight * losses.sum() / counts.sum().clamp(min=1e-6)

    def _hardest(self, losses: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Sort the pixels by descending loss, and set losses and counts to 0 except for the hardest pixels."""
        ordered, order = losses.sort(descending=True)
        rank = torch.arange(len(losses), device=losses.device)
        if self.count_ignored:
            kept = rank < max(1, int(len(losses) * self.hard_fraction))  # rounded down, as in Detectron2
        else:
            kept = rank < (counts > 0).sum() * self.hard_fraction
        return torch.where(kept, ordered, 0), torch.where(kept, counts[order], 0)


@LOSSES.register_module()
class Dice(nn.Module):
    """Dice loss: 1 minus the soft Dice coefficient, averaged over the classes (Milletari et al. 2016, section 3).

    The coefficient of a class is `2 Σ p t / (Σ p² + Σ t²)`, summed over the labeled pixels of the batch. `p` is the
    softmax probability of the class, and `t` is 1 for pixels of the class, else 0.

    Args:
        loss_weight: factor of the loss.
        smooth: number added to the numerator and the denominator.
    """

    def __init__(self, loss_weight: NonNegativeFloat = 1.0, smooth: PositiveFloat = 1.0):
        super().__init__()
        self.loss_weight, self.smooth = loss_weight, smooth

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        labeled = (labels != IGNORED)[:, None]
        probabilities = logits.softmax(dim=1) * labeled
        truth = F.one_hot(labels.long().clamp(min=0), logits.shape[1]).permute(0, 3, 1, 2) * labeled
        dims = (0, 2, 3)
        overlap = 2 * (probabilities * truth).sum(dims) + self.smooth
        total = (probabilities**2).sum(dims) + truth.sum(dims) + self.smooth
        return self.loss_weight * (1 - overlap / total).mean()


@LOSSES.register_module()
class PixelFocal(nn.Module):
    """Softmax focal loss `(1 - p)^gamma · cross-entropy`, averaged over labeled pixels (Lin et al. 2017, section 3).

    `p` is the softmax probability of the pixel's class.

    Args:
        gamma: focusing parameter; larger values reduce the weight of well-classified pixels. 0 is cross-entropy.
        loss_weight: factor of the loss.
    """

    def __init__(self, gamma: NonNegativeFloat = 2.0, loss_weight: NonNegativeFloat = 1.0):
        super().__init__()
        self.gamma, self.loss_weight = gamma, loss_weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        entropy = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="none")
        # For gamma < 1, the derivative of (1 - p)^gamma is infinite at p = 1, to which p may be rounded.
        miss = (1 - (-entropy).exp()).clamp(min=torch.finfo(entropy.dtype).tiny)
        losses = miss**self.gamma * entropy
        return self.loss_weight * losses.sum() / (labels != IGNORED).sum().clamp(min=1)
