"""Anchors: the reference boxes of dense heads, several at each cell of every feature map."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from chordate.arguments import NonEmpty, PositiveFloat
from chordate.errors import ConfigError
from chordate.ops.boxes import at_least_float32

SIZES_PER_STRIDE = (8.0,)  # FPN (Lin et al. 2017, section 4.1): anchors of 32 … 512 px at strides 4 … 64


class AnchorGenerator(nn.Module):
    """Generates anchors: boxes of fixed sizes and aspect ratios, centered at the top left corner of each cell.

    Args:
        strides: stride of each level's feature map, in pixels.
        sizes: square roots of the anchors' areas in pixels; for each level, a number or a list. By default, the stride
            times `sizes_per_stride`.
        sizes_per_stride: anchor sizes as multiples of the stride, see `sizes`; 8 by default.
        ratios: aspect ratios (height / width), combined with every size. The anchors of a cell are ordered by size,
            then by ratio.
        rounded: whether to round the corners of base anchors to whole pixels, as in torchvision.
        stride_from_grid: whether anchors are `image side // cells` pixels apart, as in torchvision, instead of the
            nominal stride. The two differ if the number of cells was rounded up, e.g. 13 cells of stride 64 for 800 px.

    Attributes:
        sizes: the anchor sizes of each level.
        per_cell: number of anchors per cell.

    Raises:
        ConfigError: `sizes` and `sizes_per_stride` are both set, `sizes` does not have one entry per level, or levels
            have different numbers of anchors, which a shared head does not support.
    """

    base: Tensor

    def __init__(
        self,
        strides: Sequence[int],
        sizes: Sequence[PositiveFloat | Sequence[PositiveFloat]] | None = None,
        sizes_per_stride: Annotated[Sequence[PositiveFloat], NonEmpty] | None = None,
        ratios: Annotated[Sequence[PositiveFloat], NonEmpty] = (0.5, 1.0, 2.0),
        rounded: bool = False,
        stride_from_grid: bool = False,
    ):
        super().__init__()
        if sizes is not None and sizes_per_stride is not None:
            raise ConfigError("sizes and sizes_per_stride both set the anchor sizes; remove one of them")
        if sizes is None:
            sizes = [[factor * stride for factor in sizes_per_stride or SIZES_PER_STRIDE] for stride in strides]
        per_level = [[size] if isinstance(size, int | float) else list(size) for size in sizes]
        if len(per_level) != len(strides) or len({len(level) for level in per_level}) != 1:
            raise ConfigError(
                f"anchor sizes {list(sizes)} do not fit {len(strides)} feature maps (strides {list(strides)}): "
                f"pass one entry per map, with the same number of sizes in each"
            )
        self.strides, self.sizes = tuple(strides), per_level
        self.rounded, self.stride_from_grid = rounded, stride_from_grid
        base = torch.tensor([[_centered(size, r) for size in level for r in ratios] for level in per_level])
        self.register_buffer("base", base.round() if rounded else base, persistent=False)
        self.per_cell = base.shape[1]

    def forward(self, grids: Sequence[Sequence[int]], image_size: Sequence[int]) -> list[Tensor]:
        """Generate the anchors `[rows * columns * per_cell, 4]` of each level (x1, y1, x2, y2 in pixels), ordered by
        row, column, size and ratio.

        Args:
            grids: number of rows and columns of each level's feature map.
            image_size: height and width of the padded images.
        """
        anchors = []
        for base, stride, (rows, columns) in zip(at_least_float32(self.base), self.strides, grids, strict=True):
            step_y, step_x = stride, stride
            if self.stride_from_grid:
                step_y, step_x = image_size[0] // rows, image_size[1] // columns
            y = torch.arange(rows, device=base.device, dtype=base.dtype) * step_y
            x = torch.arange(columns, device=base.device, dtype=base.dtype) * step_x
            y, x = torch.meshgrid(y, x, indexing="ij")
            corner = torch.stack((x, y, x, y), dim=-1)
            anchors.append((corner[:, :, None] + base).reshape(-1, 4))
        return anchors


def _centered(size: float, ratio: float) -> tuple[float, float, float, float]:
    """The anchor with area `size`² and height = `ratio` x width, centered at the origin."""
    width = size / math.sqrt(ratio)
    height = size * math.sqrt(ratio)
    return -width / 2, -height / 2, width / 2, height / 2
