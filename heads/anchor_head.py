"""Base class of heads that predict scores and a box for every anchor of a feature pyramid (RPN, RetinaNet)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import Fraction, NotDescending, validate_settings
from chordate.contracts import FeatureSpec, select
from chordate.errors import ConfigError
from chordate.ops.anchors import AnchorGenerator
from chordate.ops.boxes import at_least_float32
from chordate.ops.losses import BoxLoss, BoxLossKind
from chordate.ops.matching import Matcher

IoURange = Annotated[tuple[Fraction, Fraction], NotDescending]  # (lower, upper)
BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # weights of the box encoding; 1 leaves the deltas unscaled


@dataclass
class AnchorOutputs:
    """Predictions for all `A` anchors, concatenated level by level.

    Attributes:
        logits: `[N, A, K]` float32, one logit per class; in an RPN `[N, A]`, the objectness logits.
        deltas: `[N, A, 4]` float32, from the anchors to the predicted boxes.
        anchors: `[A, 4]` in pixels, the same for all images.
        counts: number of anchors per level.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    counts: tuple[int, ...]


class AnchorHead(nn.Module):
    """Selects the levels, and builds the anchor generator, the matcher and the box loss.

    A subclass adds layers, `forward`, `loss` and `predict`.

    Args:
        in_features: specs of the available feature maps.
        levels: names of the feature maps to use; None for all.
        anchors: arguments of `AnchorGenerator`, except `strides`.
        iou_thresholds, box_loss, smooth_l1_beta: see the subclasses.
        low_quality_iou: see `Matcher`.

    Attributes:
        channels: number of channels of every feature map.

    Raises:
        ConfigError: a level does not exist, levels have different numbers of channels, or `anchors` is invalid.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        levels: Sequence[str] | None,
        anchors: dict[str, Any],
        iou_thresholds: IoURange,
        box_loss: BoxLossKind,
        smooth_l1_beta: float,
        low_quality_iou: float = 0.0,
    ):
        super().__init__()
        name = type(self).__name__
        chosen = select(in_features, levels or in_features, name)
        channels = {spec.channels for spec in chosen.values()}
        if len(channels) != 1:
            offer = ", ".join(f"{level} ({spec})" for level, spec in chosen.items())
            raise ConfigError(
                f"{name} needs levels with equal channels (add a neck such as FPN, or set levels=[…]); got {offer}"
            )
        self.levels = tuple(chosen)
        self.channels = channels.pop()
        strides = [spec.stride for spec in chosen.values()]
        self.anchors = validate_settings(AnchorGenerator, anchors, "anchors", strides=strides)
        negative, positive = iou_thresholds
        self.matcher = Matcher(positive, negative, low_quality=True, low_quality_iou=low_quality_iou)
        self.box_loss = BoxLoss(box_loss, smooth_l1_beta, BOX_WEIGHTS)

    def concatenate(self, levels: Iterable[tuple[Tensor, Tensor]]) -> AnchorOutputs:
        """Concatenate the predictions of all levels, and generate the anchors.

        Args:
            levels: logits `[N, per_cell * K, H, W]` and deltas `[N, per_cell * 4, H, W]` of each level, with channels
                ordered by anchor, then by class or coordinate.
        """
        logits, deltas, grids = [], [], []
        for level_logits, level_deltas in levels:
            grids.append(level_logits.shape[2:])
            images, classes = level_logits.shape[0], level_logits.shape[1] // self.anchors.per_cell
            logits.append(at_least_float32(level_logits).permute(0, 2, 3, 1).reshape(images, -1, classes))
            deltas.append(at_least_float32(level_deltas).permute(0, 2, 3, 1).reshape(images, -1, 4))
        image_size = [side * self.anchors.strides[0] for side in grids[0]]
        return AnchorOutputs(
            torch.cat(logits, dim=1),
            torch.cat(deltas, dim=1),
            torch.cat(self.anchors(grids, image_size)),
            tuple(level.shape[1] for level in logits),
        )


def topk_per_level(scores: Tensor, counts: Sequence[int], topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Select the `topk` highest scores of each level, or all scores of a level with fewer.

    Args:
        scores: `[N, M]`, concatenated level by level.
        counts: number of scores of each level; their sum is `M`.
        topk: maximum number of scores per level.

    Returns:
        Three tensors `[N, K]`: the scores, their column indices, and their level indices; ordered by level, then by
        descending score. If the shapes are symbolic (in an export with dynamic sizes), every level has `topk` entries,
        and the level index of padding is -1.
    """
    best, indices, levels, offset = [], [], [], 0
    for level, level_scores in enumerate(scores.split(counts, dim=1)):
        count = level_scores.shape[1]
        if isinstance(count, torch.SymInt):
            score, index = F.pad(level_scores, (0, topk), value=-torch.inf).topk(topk, dim=1)
            levels.append(torch.where(index < count, level, -1))
            index = index.clamp(max=count - 1)
        else:
            score, index = level_scores.topk(min(topk, count), dim=1)
            levels.append(torch.full_like(index, level))
        best.append(score)
        indices.append(index + offset)
        offset += count
    return torch.cat(best, dim=1), torch.cat(indices, dim=1), torch.cat(levels, dim=1)
