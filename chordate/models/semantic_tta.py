"""Test-time augmentation for semantic segmentation: several scales, with and without horizontal flips."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor

from chordate.arguments import NonEmpty, PositiveFloat
from chordate.models.detector_tta import augment
from chordate.ops.argmax_resize import resize_logits
from chordate.structures import Batch

Logits = Callable[[Tensor, Tensor], Tensor]  # (images [N, C, h, w], sizes [N, 2]) -> logits [N, K, h', w']


class SemanticTTA:
    """Averages each pixel's class probabilities over scales and flips (Chen et al. 2017, DeepLab v3, section 4.2).

    Args:
        scales: scale factors of the images; 0.5, 0.75, … 1.75 in the paper.
        flip: whether each scaled image is also predicted flipped horizontally.
    """

    def __init__(self, scales: Annotated[Sequence[PositiveFloat], NonEmpty] = (1.0,), flip: bool = False):
        self.scales, self.flip = tuple(scales), flip

    def __call__(self, images: Tensor, sizes: Tensor, logits: Logits, size_divisor: int) -> Tensor:
        """Mean class probabilities `[N, K, H, W]`; 0 in the padding.

        Args:
            images: `[N, C, H, W]`, padded at the right and at the bottom.
            sizes: `[N, 2]`, height and width of each image without padding.
            logits: function that computes the logits of images, such as `SemanticSegmenter.logits`.
            size_divisor: rescaled images are padded to multiples of this many pixels.
        """
        total = None
        flips = (False, True) if self.flip else (False,)
        for scale, flip in [(scale, flip) for scale in self.scales for flip in flips]:
            view = augment(Batch(images, sizes, []), scale, flip, size_divisor)
            maps = logits(view.images, view.sizes)
            if total is None:
                total = torch.zeros(*maps.shape[:2], *images.shape[-2:], device=images.device)
            cells = [n / side for n, side in zip(maps.shape[-2:], view.images.shape[-2:])]  # cells per pixel
            for own, (height, width), (h, w), out in zip(maps, sizes.tolist(), view.sizes.tolist(), total):
                scores = resize_logits(own, (height, width), (h * cells[0], w * cells[1])).softmax(dim=0)
                out[:, :height, :width] += scores.flip(-1) if flip else scores
        assert total is not None
        return total / (len(self.scales) * len(flips))
