"""Converts the loader's uint8 images to the backbone's input: normalizes them on the device and zeroes the padding."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from chordate.arguments import NonNegativeFloat
from chordate.errors import ConfigError

# RGB statistics of ImageNet's training images, on the scale 0 … 255, used by torchvision's and most timm classifiers.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Normalize(nn.Module):
    """Subtracts a mean and divides by a standard deviation, per channel, and sets the padding to zero.

    The padding is set to zero after normalization; otherwise its value would be -mean / std, with an artificial edge at
    the image border.

    Args:
        mean, std: one number per channel, on the scale 0 … 255; should be the values that the backbone was trained
            with.
        bgr: whether to reverse the channels before normalization (for weights from Caffe); `mean` and `std` are then in
            BGR order.

    Raises:
        ConfigError: mean and std have different lengths, a std is 0, or the values are for the scale 0 … 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[NonNegativeFloat] = IMAGENET_STD,
        bgr: bool = False,
    ):
        super().__init__()
        if len(mean) != len(std) or not all(std):
            raise ConfigError(
                f"mean {list(mean)} and std {list(std)} must both have one number per channel, and no std may be 0"
            )
        if max(std) <= 1 and 0 < max(mean) <= 1:
            raise ConfigError(
                f"mean {list(mean)} and std {list(std)} are for 0 … 1; multiply them by 255, since pixels are 0 … 255"
            )
        self.bgr = bgr
        self._exact = tuple(mean), tuple(std)
        self.register_buffer("mean", _per_channel(mean).float(), persistent=False)
        self.register_buffer("std", _per_channel(std).float(), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move or cast the module; a cast to float64 uses the exact mean and std, not values rounded to float32."""
        super()._apply(fn, recurse)
        mean, std = self._exact
        self.mean, self.std = _per_channel(mean).to(self.mean), _per_channel(std).to(self.std)
        return self

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalize images.

        Args:
            images: `[N, C, H, W]` uint8 or float, 0 … 255.
            sizes: `[N, 2]`, heights and widths without padding.

        Returns:
            Normalized images `[N, C, H, W]`, in the dtype of `mean`.
        """
        if self.bgr:
            images = images.flip(1)
        normalized = (images.to(self.mean.dtype) - self.mean) / self.std
        height, width = images.shape[-2:]
        row = torch.arange(height, device=images.device)
        column = torch.arange(width, device=images.device)
        inside_y = (row < sizes[:, :1])[:, None, :, None]
        inside_x = (column < sizes[:, 1:])[:, None, None, :]
        return normalized * (inside_y & inside_x)


def _per_channel(numbers: Sequence[float]) -> Tensor:
    """Convert per-channel values to `[C, 1, 1]` float64."""
    return torch.tensor(numbers, dtype=torch.float64)[:, None, None]
