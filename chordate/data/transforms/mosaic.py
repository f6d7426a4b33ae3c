"""Mosaic augmentation: combines four images into one (Bochkovskiy et al. 2020, YOLOv4, section 3.3)."""

from typing import Any

import torch
from torchvision.transforms.v2 import functional as F

from chordate.arguments import Fraction, PositiveInt
from chordate.data.transforms.mixing import FILL, Sample, check_instances, draw_partners, join, moved
from chordate.data.transforms.sanitize import SanitizeInstances
from chordate.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Mosaic:
    """Place four images around a random point of a canvas with sides of 2 · `size` (as in YOLOX, Ge et al. 2021).

    Each image is scaled to fit into a square with sides of `size`, placed with one corner at the point, and cropped to
    the canvas. YOLOX then applies a random affine transform and a crop to `size`; in a pipeline, these are v2's
    `RandomAffine` and `CenterCrop`.

    Args:
        size: height and width of the square that each image is scaled to fit, in pixels.
        p: probability per sample.

    Raises:
        ConfigError: the samples have no instances.
    """

    def __init__(self, size: PositiveInt = 640, p: Fraction = 1.0):
        self.size, self.p = size, p

    def __call__(self, sample: Sample) -> Sample:
        check_instances(sample, "Mosaic")
        if torch.rand(()) >= self.p:
            return sample
        others = draw_partners(sample, 3, "Mosaic")
        if not others:
            return sample
        side = 2 * self.size
        point = [int(torch.randint(self.size // 2, side - self.size // 2 + 1, ())) for _ in range(2)]
        canvas = torch.tensor(FILL, dtype=sample["image"].dtype)[:, None, None].repeat(1, side, side)
        parts = []
        for number, tile in enumerate([sample, *others]):
            part, top, left = self._place(tile, point, below=number // 2, right=number % 2)
            image = part.pop("image")
            height, width = image.shape[-2:]
            canvas[:, top : top + height, left : left + width] = image
            parts.append(moved(part, F.pad, [left, top, side - left - width, side - top - height]))
        return join(canvas, parts)

    def _place(self, tile: Sample, point: list[int], *, below: int, right: int) -> tuple[Sample, int, int]:
        """Scale a tile and crop it to the canvas; also returns its top row and left column on the canvas."""
        height, width = tile["image"].shape[-2:]
        scale = min(self.size / height, self.size / width)
        fitted = [max(1, round(height * scale)), max(1, round(width * scale))]
        start = [middle if after else middle - length for middle, after, length in zip(point, (below, right), fitted)]
        low = [max(first, 0) for first in start]
        high = [min(first + length, 2 * self.size) for first, length in zip(start, fitted)]
        window: list[Any] = [*(a - first for a, first in zip(low, start)), *(b - a for a, b in zip(low, high))]
        part = moved(moved(tile, F.resize, fitted), F.crop, *window)
        # Sanitize now, because a later rotation could give an area to an empty box.
        return SanitizeInstances()(part), low[0], low[1]
