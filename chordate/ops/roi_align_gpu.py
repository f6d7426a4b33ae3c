"""RoIAlign for GPUs: one Triton kernel pools from all levels of a pyramid, in channels-last layout.

torchvision's operator pools from one feature map. For a pyramid, one must either split the boxes by level, which needs
a host sync, or pool every box on every level. In mixed precision, it also converts the feature maps, usually bfloat16
in NHWC, to float32 in NCHW.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 256  # maximum number of channels per Triton program; further channels have their own programs


def pyramid_roi_align(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Like `roi_align_cpu.pyramid_roi_align`, but `level` may be floats; boxes with level NaN are pooled to 0.

    The output has the data type of `maps`; sums are in float32 or wider.
    """
    channels = maps[0].shape[1]
    table = torch.cat([x.permute(0, 2, 3, 1).reshape(-1, channels) for x in maps])  # one pixel per row
    with torch.no_grad():
        cells, first = torch.zeros_like(boxes), torch.zeros_like(image)
        # NaN boxes have no level and keep the size -2: no sample lies inside a feature map of this size.
        rows = columns = torch.full_like(image, -2)
        start = 0
        # Loop over the levels: indexing a tensor of feature map sizes by level would need a host-to-device copy.
        for number, (x, stride) in enumerate(zip(maps, strides)):
            images, height, width = x.shape[0], *x.shape[2:]
            is_own = level == number
            cells = torch.where(is_own[:, None], boxes / stride - (0.5 if aligned else 0.0), cells)
            first = torch.where(is_own, start + image * (height * width), first)
            rows, columns = torch.where(is_own, height, rows), torch.where(is_own, width, columns)
            start += images * height * width
    pooled = roi_align_rows(table, cells, first, rows, columns, resolution, sampling_ratio, aligned)
    return pooled.permute(0, 3, 1, 2)


@torch.library.custom_op("chordate::roi_align_rows", mutates_args=())
def roi_align_rows(
    table: Tensor,
    cells: Tensor,
    first: Tensor,
    rows: Tensor,
    columns: Tensor,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign of `R` boxes, each from one of several feature maps.

    Args:
        table: `[M, C]`, the pixels of all feature maps in row-major order.
        cells: `[R, 4]`, the boxes, x1, y1, x2, y2 in pixels of their feature maps, with pixel centers at integers.
        first, rows, columns: `[R]` int64, for each box's feature map, the row of `table` with the map's first pixel,
            and the map's height and width in pixels.
        resolution, sampling_ratio: see `RoIPooler`.
        aligned: if false, boxes are enlarged to at least 1 x 1 pixel; if true, `cells` includes the half-pixel shift.

    Returns:
        `[R, resolution, resolution, C]`.
    """
    pooled = table.new_empty(len(cells), resolution, resolution, table.shape[1])
    _launch(False, pooled, table, cells, first, rows, columns, resolution, sampling_ratio, aligned)
    return pooled


@torch.library.custom_op("chordate::roi_align_rows_backward", mutates_args=())
def roi_align_rows_backward(
    gradient: Tensor,
    length: int,
    cells: Tensor,
    first: Tensor,
    rows: Tensor,
    columns: Tensor,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Compute the gradient of `table`, `[length, C]`, from the `gradient` of the pooled boxes."""
    gradient = gradient.contiguous()
    sums = torch.promote_types(gradient.dtype, torch.float32)
    table_grad = torch.zeros(length, gradient.shape[-1], dtype=sums, device=gradient.device)
    _launch(True, gradient, table_grad, cells, first, rows, columns, resolution, sampling_ratio, aligned)
    return table_grad.to(gradient.dtype)


@roi_align_rows.register_fake
def _(table: Tensor, cells: Tensor, *numbers: Any) -> Tensor:
    return table.new_empty(len(cells), numbers[3], numbers[3], table.shape[1])


@roi_align_rows_backward.register_fake
def _(gradient: Tensor, length: int, *boxes: Any) -> Tensor:
    return gradient.new_empty(length, gradient.shape[-1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, *boxes = inputs
    ctx.length, ctx.numbers = len(table), boxes[4:]
    ctx.save_for_backward(*boxes[:4])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    table_grad = roi_align_rows_backward(gradient, ctx.length, *ctx.saved_tensors, *ctx.numbers)
    return table_grad, None, None, None, None, None, None, None


roi_align_rows.register_autograd(_backward, setup_context=_save)


def _launch(backward: bool, pooled: Tensor, table: Tensor, cells: Tensor, *boxes: Any) -> None:
    channels, resolution = pooled.shape[-1], pooled.shape[1]
    if not pooled.numel():
        return
    # The kernel reads four consecutive numbers per box.
    cells = cells.to(torch.promote_types(cells.dtype, torch.float32)).contiguous()
    block = min(CHANNELS, triton.next_power_of_2(channels))
    programs = (len(cells) * resolution * resolution, triton.cdiv(channels, block))
    warps = max(1, min(4, block // 64))
    pool_kernel[programs](pooled, table, cells, *boxes, channels, block, backward, num_warps=warps)


@triton.jit
def pool_kernel(  # type: ignore[no-untyped-def]
    pooled,
    table,
    cells,
    first,
    rows,
    columns,
    SIDE: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    channels,
    BLOCK: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """Program `(p, b)` computes block `b` of the channels of output bin `p`. The forward pass stores the mean of the
    bin's samples in `pooled`; the backward pass reads the gradient of this mean from `pooled`, and adds it, weighted,
    to the sampled pixels in `table`."""
    box, channel, y0, x0, step_y, step_x, ys, xs = cell_samples(cells, SIDE, RATIO, ALIGNED, BLOCK)
    used = channel < channels
    cell = pooled + tl.program_id(0).to(tl.int64) * channels + channel
    start, height, width = tl.load(first + box), tl.load(rows + box), tl.load(columns + box)
    value = tl.load(cell, mask=used).to(y0.dtype) if BACKWARD else tl.full([BLOCK], 0, y0.dtype)
    if BACKWARD:
        value /= tl.maximum(ys * xs, 1)
    for sample in range(ys * xs):
        y = y0 + (sample // xs + 0.5) * step_y
        x = x0 + (sample % xs + 0.5) * step_x
        if (y >= -1) & (y <= height) & (x >= -1) & (x <= width):
            top, bottom, weight_y = bilinear_taps(y, height)
            left, right, weight_x = bilinear_taps(x, width)
            for corner in tl.static_range(4):
                row, part_y = (bottom, weight_y) if corner >= 2 else (top, 1 - weight_y)
                column, part_x = (right, weight_x) if corner % 2 == 1 else (left, 1 - weight_x)
                pixel = table + (start + row * width + column) * channels + channel
                if BACKWARD:
                    tl.atomic_add(pixel, part_y * part_x * value, mask=used)
                else:
                    value += part_y * part_x * tl.load(pixel, mask=used)
    if not BACKWARD:
        tl.store(cell, value / tl.maximum(ys * xs, 1), mask=used)


@triton.jit
def cell_samples(  # type: ignore[no-untyped-def]
    cells, SIDE: tl.constexpr, RATIO: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr
):
    """This program's box index and channels, its output bin's corner, and the spacing and number of its samples."""
    program = tl.program_id(0)
    box = program // (SIDE * SIDE)
    row, column = program // SIDE % SIDE, program % SIDE
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x1, y1 = tl.load(cells + 4 * box), tl.load(cells + 4 * box + 1)
    height, width = tl.load(cells + 4 * box + 3) - y1, tl.load(cells + 4 * box + 2) - x1
    if not ALIGNED:
        height, width = tl.maximum(height, 1), tl.maximum(width, 1)
    height, width = height / SIDE, width / SIDE
    if RATIO == 0:
        ys, xs = tl.maximum(tl.ceil(height).to(tl.int32), 0), tl.maximum(tl.ceil(width).to(tl.int32), 0)
    else:
        ys, xs = tl.full([], RATIO, tl.int32), tl.full([], RATIO, tl.int32)
    step_y, step_x = height / tl.maximum(ys, 1), width / tl.maximum(xs, 1)
    return box, channel, y1 + row * height, x1 + column * width, step_y, step_x, ys, xs


@triton.jit
def bilinear_taps(position, side):  # type: ignore[no-untyped-def]
    """The two pixels around a position on one axis, and the interpolation weight of the second pixel."""
    position = tl.maximum(position, 0)
    low = tl.minimum(position.to(tl.int64), side - 1)
    high = tl.minimum(low + 1, side - 1)
    return low, high, tl.where(high > low, position - low, 0)
