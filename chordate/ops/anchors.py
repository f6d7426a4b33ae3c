"""Anchors: the reference boxes that a dense head starts from, a few at each cell of each feature map."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chordate.errors import ConfigError

SIZE_PER_STRIDE = 8  # FPN (Lin et al. 2017, section 4.1): sides of 32 … 512 px on strides 4 … 64


class AnchorGenerator(nn.Module):
    """Boxes of given sizes and shapes around the top left corner of each cell, level by level.

    Args:
        strides: pixels per cell, one a level.
        sizes: the square roots of the anchors' areas in pixels, one number or a list of them a level;
            8 x stride by default.
        ratios: heights over widths; every size comes in each of them. The anchors of a cell are ordered by
            size, then by ratio.
        rounded: base anchors have their corners rounded to whole pixels, as torchvision's have.
        stride_from_grid: cells are `image side // cells` pixels apart, as in torchvision, and not the
            nominal stride: they differ where a level's grid was rounded up, as 800 px in 13 cells of 64.

    Raises:
        ConfigError: not one entry of `sizes` a level, or levels with different numbers of anchors, which a
            head that all levels share cannot serve.
    """

    base: Tensor

    def __init__(
        self,
        strides: Sequence[int],
        sizes: Sequence[float | Sequence[float]] | None = None,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        rounded: bool = False,
        stride_from_grid: bool = False,
    ):
        super().__init__()
        if sizes is None:
            sizes = [SIZE_PER_STRIDE * stride for stride in strides]
        per_level = [[size] if isinstance(size, int | float) else list(size) for size in sizes]
        if len(per_level) != len(strides) or len({len(level) for level in per_level}) != 1:
            raise ConfigError(
                f"anchor sizes {list(sizes)} do not fit {len(strides)} feature maps (strides {list(strides)}): "
                f"give one entry a map, and equally many sizes in each"
            )
        self.strides = tuple(strides)
        self.stride_from_grid = stride_from_grid
        base = torch.tensor([[_centred(size, r) for size in level for r in ratios] for level in per_level])
        self.register_buffer("base", base.round() if rounded else base, persistent=False)

    @property
    def per_cell(self) -> int:
        """Anchors at each cell."""
        return self.base.shape[1]

    def forward(self, grids: Sequence[Sequence[int]], image_size: Sequence[int]) -> list[Tensor]:
        """Anchors `[rows * columns * per_cell, 4]` of each level, by row, column, size and ratio.

        Args:
            grids: rows and columns of each level's feature map.
            image_size: height and width of the padded images.
        """
        anchors = []
        for base, stride, (rows, columns) in zip(self.base, self.strides, grids, strict=True):
            step_y, step_x = stride, stride
            if self.stride_from_grid:
                step_y, step_x = image_size[0] // rows, image_size[1] // columns
            y = torch.arange(rows, device=base.device, dtype=base.dtype) * step_y
            x = torch.arange(columns, device=base.device, dtype=base.dtype) * step_x
            y, x = torch.meshgrid(y, x, indexing="ij")
            corner = torch.stack((x, y, x, y), dim=-1)
            anchors.append((corner[:, :, None] + base).reshape(-1, 4))
        return anchors


def _centred(size: float, ratio: float) -> tuple[float, float, float, float]:
    """The box of area size² with height = ratio x width, around the origin."""
    width = size / math.sqrt(ratio)
    height = size * math.sqrt(ratio)
    return -width / 2, -height / 2, width / 2, height / 2
