"""Sliding-window prediction: predicts large images in overlapping windows, to limit memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chordate.arguments import PositiveInt
from chordate.errors import ConfigError
from chordate.ops.argmax_resize import CHUNK, sample_logits
from chordate.ops.boxes import at_least_float32
from chordate.structures import Batch

Size = tuple[PositiveInt, PositiveInt]
Logits = Callable[[Tensor, Tensor], Tensor]  # (images [N, C, h, w], sizes [N, 2]) -> logits [N, K, h', w']


@dataclass(frozen=True)
class Axis:
    """The windows along one axis of an image.

    Attributes:
        starts: start of each window, in pixels of the model's input; the last window ends at the image border.
        size: length of a window, in pixels of the model's input.
        length: length of the model's input (the whole resized image), in pixels.
        original: length of the original image, in pixels.
    """

    starts: Sequence[int]
    size: int
    length: int
    original: int

    @classmethod
    def build(cls, size: int, stride: int, length: int, original: int) -> Axis:
        last = max(length - size, 0)
        return cls([*range(0, last, stride), last], min(size, length), length, original)

    def start(self, number: int) -> int:
        """Start of window `number`; `length` if `number` is one past the last window."""
        return self.starts[number] if number < len(self.starts) else self.length

    def first_pixel(self, position: int) -> int:
        """The first pixel of the original image whose center is at or after a position in the model's input."""
        return -((self.length - 2 * position * self.original) // (2 * self.length))

    def pixels(self, start: int, end: int) -> range:
        """The pixels of the original image with centers at or after `start` and before `end` in the model's input."""
        return range(self.first_pixel(start), self.first_pixel(end))

    def positions(self, pixels: range, like: Tensor) -> Tensor:
        """Positions `[len(pixels)]`, in the model's input, of the centers of the original image's `pixels`."""
        centers = torch.arange(pixels.start, pixels.stop, device=like.device, dtype=like.dtype) + 0.5
        return centers * (self.length / self.original)


@dataclass(frozen=True)
class Window:
    """The logits of a window.

    Attributes:
        logits: `[K, h', w']`.
        top, left, bottom, right: borders of the window in pixels of the model's input.
        cell: height and width of a cell of the logits, in pixels of the model's input.
    """

    logits: Tensor
    top: float
    left: int
    bottom: int
    right: int
    cell: tuple[float, float]

    def below(self, row: int) -> Window:
        """Drop the rows of logits that only pixel rows before `row` need; the others are copied, to free memory."""
        skipped = max(0, int((row - self.top) / self.cell[0] - 0.5))
        if not skipped:
            return self
        return replace(self, logits=self.logits[:, skipped:].clone(), top=self.top + skipped * self.cell[0])


class SlidingWindow:
    """Predicts windows of the same size, and averages their logits where windows overlap.

    The logits are interpolated bilinearly at the pixels of the original image, as without windows. To save memory, the
    labels of a block of pixels are computed as soon as no later window covers it. Earlier windows keep only the rows of
    logits that overlap with later windows, at the stride of the head.

    Args:
        size: height and width of a window in pixels of the model's input. Smaller images are predicted whole.
        stride: vertical and horizontal distance between the starts of adjacent windows, in pixels; at most `size`. The
            last window of a row or column ends at the image border.

    Raises:
        ConfigError: the stride is larger than the window, so that some pixels would not be predicted.
    """

    def __init__(self, size: Size, stride: Size):
        if stride[0] > size[0] or stride[1] > size[1]:
            raise ConfigError(
                f"stride must be ≤ size in height and width, got stride {list(stride)} and size {list(size)}"
            )
        self.size, self.stride = size, stride

    @torch.no_grad()
    def predict(self, logits: Logits, batch: Batch) -> list[Tensor]:
        """Predict the labels `[H, W]` int16 of each image at its original size.

        Args:
            logits: function from images `[N, C, h, w]` and their sizes `[N, 2]` to logits `[N, K, h', w']`.
            batch: the batch of images.
        """
        return [
            self._labels(logits, image[..., : size[0], : size[1]], (info.height, info.width))
            for image, info, size in zip(batch.images, batch.infos, batch.sizes.tolist())
        ]

    def _labels(self, logits: Logits, image: Tensor, original: tuple[int, int]) -> Tensor:
        """The labels `[H, W]` int16 of one image `[C, h, w]`, at its original size."""
        rows, columns = map(Axis.build, self.size, self.stride, image.shape[-2:], original)
        labels = torch.empty(original, dtype=torch.int16, device=image.device)
        windows: list[Window] = []  # earlier windows that overlap with later ones
        for i, top in enumerate(rows.starts):
            for j, left in enumerate(columns.starts):
                bottom, right = top + rows.size, left + columns.size
                part = image[None, :, top:bottom, left:right]
                own = at_least_float32(logits(part, torch.tensor([part.shape[-2:]], device=image.device))[0])
                cell = rows.size / own.shape[1], columns.size / own.shape[2]
                windows.append(Window(own, top, left, bottom, right, cell))
                following, next_column = rows.start(i + 1), columns.start(j + 1)
                down, across = rows.pixels(top, following), columns.pixels(left, next_column)
                step = max(1, CHUNK // (len(own) * max(1, len(across))))
                for start in range(down.start, down.stop, step):
                    chunk = range(start, min(start + step, down.stop))
                    total = _sum(windows, rows, columns, chunk, across)  # sum and mean have the same argmax
                    labels[chunk.start : chunk.stop, across.start : across.stop] = total.max(dim=0).indices.short()
                windows = _needed(windows, following, next_column)
        return labels


def _sum(windows: Sequence[Window], rows: Axis, columns: Axis, down: range, across: range) -> Tensor:
    """The summed logits `[K, len(down), len(across)]` of the windows at pixels of the original image."""
    total = windows[-1].logits.new_zeros(len(windows[-1].logits), len(down), len(across))
    for window in windows:
        inside = [
            range(max(pixels.start, covered.start), min(pixels.stop, covered.stop))
            for pixels, covered in (
                (down, rows.pixels(int(window.top), window.bottom)),
                (across, columns.pixels(window.left, window.right)),
            )
        ]
        if all(inside):
            y = (rows.positions(inside[0], total) - window.top) / window.cell[0] - 0.5
            x = (columns.positions(inside[1], total) - window.left) / window.cell[1] - 0.5
            (h, w) = (slice(own.start - all_.start, own.stop - all_.start) for own, all_ in zip(inside, (down, across)))
            total[:, h, w] += sample_logits(window.logits, y, x)
    return total


def _needed(windows: Sequence[Window], following: int, next_column: int) -> list[Window]:
    """The windows that later windows overlap with, without the rows that are no longer needed.

    Args:
        windows: the windows predicted so far.
        following: start of the next row of windows.
        next_column: start of the next window in the current row of windows.
    """
    needed = []
    for window in windows:
        if window.right > next_column:
            needed.append(window)
        elif window.bottom > following:
            needed.append(window.below(following))
    return needed
