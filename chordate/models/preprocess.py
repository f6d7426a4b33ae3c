"""From the loader's bytes to what the backbone eats: normalised on the device, with zeros in the padding."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from chordate.errors import ConfigError

# Of ImageNet's training images, RGB, 0 … 255: what torchvision's and timm's classifiers were trained with.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Normalize(nn.Module):
    """Subtracts a mean and divides by a standard deviation, channel by channel, and blanks the padding.

    The zeros must come after the normalisation: a zero byte in the padding would become -mean / std, an edge
    that no picture has.

    Args:
        mean, std: one number a channel, on the scale of 0 … 255.
        bgr: reverse the channels first (for weights from Caffe), `mean` and `std` being in that order.

    Raises:
        ConfigError: mean and std have different lengths, a std is 0, or they are those of pixels of 0 … 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
    ):
        super().__init__()
        if len(mean) != len(std) or not all(std):
            raise ConfigError(f"mean {list(mean)} and std {list(std)}: give one number a channel, and no std of 0")
        if max(std) <= 1 and 0 < max(mean) <= 1:
            raise ConfigError(
                f"mean {list(mean)} and std {list(std)} are of 0 … 1; pixels are 0 … 255, so give 255 times"
            )
        self.bgr = bgr
        self._exact = tuple(mean), tuple(std)
        self.register_buffer("mean", _column(mean).float(), persistent=False)
        self.register_buffer("std", _column(std).float(), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move or cast; a cast to float64 gets the numbers as they were given, not as float32 rounded them."""
        super()._apply(fn, recurse)
        mean, std = self._exact
        self.mean, self.std = _column(mean).to(self.mean), _column(std).to(self.std)
        return self

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """`[N, C, H, W]` uint8 or float, 0 … 255, and true heights and widths `[N, 2]`, to float `[N, C, H, W]`."""
        if self.bgr:
            images = images.flip(1)
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        height, width = images.shape[-2:]
        row = torch.arange(height, device=images.device)
        column = torch.arange(width, device=images.device)
        inside_y = (row < sizes[:, :1])[:, None, :, None]
        inside_x = (column < sizes[:, 1:])[:, None, None, :]
        return normalised * (inside_y & inside_x)


def _column(numbers: Sequence[float]) -> Tensor:
    """One number a channel, `[C, 1, 1]` float64."""
    return torch.tensor(numbers, dtype=torch.float64)[:, None, None]
