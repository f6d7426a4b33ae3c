"""Sliding-window prediction: predicts large images in overlapping windows, to limit memory."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.arguments import PositiveInt
from chordate.errors import ConfigError
from chordate.structures import Batch

Size = tuple[PositiveInt, PositiveInt]


class SlidingWindow:
    """Predicts windows of the same size, and averages their logits where windows overlap.

    Only the logits of one row of windows are in memory: as soon as no later window covers a row of pixels, its logits
    are reduced to labels.

    Args:
        size: height and width of a window in pixels of the model's input. Smaller images are predicted whole.
        stride: vertical and horizontal distance between windows in pixels. The last window of a row or column ends at
            the image border.

    Raises:
        ConfigError: the stride is larger than the window, so that some pixels would not be predicted.
    """

    def __init__(self, size: Size, stride: Size):
        if stride[0] > size[0] or stride[1] > size[1]:
            raise ConfigError(f"stride {list(stride)} is larger than the window, size {list(size)}")
        self.size, self.stride = size, stride

    @torch.no_grad()
    def predict(self, logits: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> list[Tensor]:
        """Predict the labels `[H, W]` int16 of each image at its original size (by nearest-neighbor resizing if the
        input has another size).

        Args:
            logits: function from images `[N, C, h, w]` and their sizes `[N, 2]` to logits `[N, K, h', w']`.
            batch: the batch of images.
        """
        results = []
        for image, info, size in zip(batch.images, batch.infos, batch.sizes.tolist()):
            labels = self._labels(logits, image[..., : size[0], : size[1]])
            if labels.shape != (info.height, info.width):
                labels = F.interpolate(labels[None, None].float(), (info.height, info.width), mode="nearest-exact")
                labels = labels[0, 0].short()
            results.append(labels)
        return results

    def _labels(self, logits: Callable[[Tensor, Tensor], Tensor], image: Tensor) -> Tensor:
        """The labels `[h, w]` int16 of one image `[C, h, w]`."""
        height, width = image.shape[-2:]
        rows, columns = _starts(height, self.size[0], self.stride[0]), _starts(width, self.size[1], self.stride[1])
        labels = torch.empty((height, width), dtype=torch.int16, device=image.device)
        total: Any = None  # summed logits of the pixel rows from `top` on; sum and mean have the same argmax
        for number, top in enumerate(rows):
            bottom = min(top + self.size[0], height)
            following = rows[number + 1] if number + 1 < len(rows) else height
            for left in columns:
                right = min(left + self.size[1], width)
                window = image[None, :, top:bottom, left:right]
                sizes = torch.tensor([window.shape[-2:]], device=image.device)
                own = F.interpolate(logits(window, sizes).float(), window.shape[-2:], mode="bilinear")[0]
                if total is None:
                    total = own.new_zeros((own.shape[0], bottom - top, width))
                total[:, :, left:right] += own
            done = following - top  # rows that no later window covers
            labels[top:following] = total[:, :done].max(dim=0).indices.short()
            for plane in total if following < height else ():  # in place, since a copy doubles the memory
                plane[:-done] = plane[done:].clone()
                plane[-done:] = 0
        return labels


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Start positions of the windows along an axis of `length` pixels; the last window ends at the border."""
    last = max(length - size, 0)
    return [*range(0, last, stride), last]
