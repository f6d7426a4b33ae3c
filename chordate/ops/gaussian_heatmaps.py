"""Gaussian heatmaps of keypoints: training targets, and sub-pixel decoding.

Positions are in heatmap cells, with the center of the first cell at 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_RADIUS = 2.5  # in sigmas; gives the DARK authors' kernels of 11 and 17 cells for sigma 2 and 3
SMALLEST = 1e-10  # minimum before the logarithm in DARK, as in the authors' code


@torch.no_grad()
def gaussian_heatmaps(positions: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Make one heatmap per keypoint: a Gaussian of height 1 around the position.

    Args:
        positions: `[..., 2]` x, y in cells.
        size: height and width of the heatmaps in cells.
        sigma: standard deviation in cells.

    Returns:
        The heatmaps `[..., H, W]`.
    """
    row, column = (torch.arange(side, device=positions.device, dtype=positions.dtype) for side in size)
    x = torch.exp(-((column - positions[..., :1]) ** 2) / (2 * sigma**2))
    y = torch.exp(-((row - positions[..., 1:]) ** 2) / (2 * sigma**2))
    return y[..., :, None] * x[..., None, :]


@torch.no_grad()
def decode_quarter(heatmaps: Tensor) -> Tensor:
    """Decode keypoints as the highest cell, shifted along each axis by a quarter of a cell toward the higher neighbor
    (Xiao et al. 2018, section 4.1, after Newell et al. 2016).

    A cell in the first or last column is not shifted in x, and a cell in the first or last row is not shifted in y.

    Args:
        heatmaps: `[..., H, W]`.

    Returns:
        `[..., 3]` x, y in cells, and the value of the highest cell.
    """
    peaks, cells = _peaks(heatmaps)
    left, right, above, below = (_value(heatmaps, cells, dx, dy) for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)))
    direction = torch.stack((right - left, below - above), -1).sign()
    return torch.cat((peaks[..., :2] + 0.25 * direction * _interior(heatmaps, cells, 1), peaks[..., 2:]), -1)


@torch.no_grad()
def decode_dark(heatmaps: Tensor, sigma: float) -> Tensor:
    """Decode keypoints as the maximum of a quadratic fitted to the logarithm of the blurred heatmap around the highest
    cell (DARK, Zhang et al. 2020, section 3.1).

    The result is nearly exact for a Gaussian. If the quadratic has no maximum within two cells of the highest cell, or
    this cell is less than two cells from the border, the result is the center of the highest cell.

    Args:
        heatmaps: `[..., H, W]`.
        sigma: standard deviation in cells of the target Gaussians in training, and of the blur.

    Returns:
        `[..., 3]` x, y in cells, and the value of the highest cell before the blur.
    """
    peaks, cells = _peaks(heatmaps)
    logs = _blur(heatmaps, sigma).clamp(min=SMALLEST).log()

    def at(dx: int, dy: int) -> Tensor:
        return _value(logs, cells, dx, dy)

    middle = at(0, 0)
    gradient = torch.stack((at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)), -1) / 2
    xx = (at(2, 0) - 2 * middle + at(-2, 0)) / 4
    yy = (at(0, 2) - 2 * middle + at(0, -2)) / 4
    xy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
    determinant = xx * yy - xy**2
    safe = torch.where(determinant > 0, determinant, 1)
    gx, gy = gradient.unbind(-1)
    step = torch.stack((xy * gy - yy * gx, xy * gx - xx * gy), -1) / safe[..., None]
    valid = (determinant > 0) & (xx < 0) & (step.abs() <= 2).all(-1)
    valid = valid[..., None] & _interior(heatmaps, cells, 2).all(-1, True)
    return torch.cat((peaks[..., :2] + torch.where(valid, step, 0.0), peaks[..., 2:]), -1)


def shift_right(heatmaps: Tensor) -> Tensor:
    """Shift heatmaps `[..., H, W]` one cell to the right; the first column is repeated."""
    return torch.cat((heatmaps[..., :1], heatmaps[..., :-1]), -1)


def _peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Find the highest cell of each heatmap: x, y and value `[..., 3]`, and x and y as indices `[..., 2]` int64."""
    value, index = heatmaps.flatten(-2).max(-1)
    width = heatmaps.shape[-1]
    row = index // width
    cells = torch.stack((index - row * width, row), -1)  # ONNX has no remainder of a dynamic size
    return torch.cat((cells.to(value.dtype), value[..., None]), -1), cells


def _value(heatmaps: Tensor, cells: Tensor, dx: int, dy: int) -> Tensor:
    """The values `[...]` of the cells at offset (`dx`, `dy`) from `cells` `[..., 2]`; border cells are replicated."""
    height, width = heatmaps.shape[-2:]
    x, y = (cells[..., 0] + dx).clamp(0, width - 1), (cells[..., 1] + dy).clamp(0, height - 1)
    return heatmaps.flatten(-2).gather(-1, (y * width + x)[..., None])[..., 0]


def _interior(heatmaps: Tensor, cells: Tensor, margin: int) -> Tensor:
    """Whether x and y are at least `margin` cells from the border, `[..., 2]` bool."""
    last = torch.tensor(heatmaps.shape[:-3:-1], device=cells.device) - 1
    return (cells >= margin) & (cells <= last - margin)


def _blur(heatmaps: Tensor, sigma: float) -> Tensor:
    """Blur heatmaps `[..., H, W]` with a Gaussian, with zero padding."""
    radius = round(BLUR_RADIUS * sigma)
    offsets = torch.arange(-radius, radius + 1, device=heatmaps.device, dtype=heatmaps.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    maps = heatmaps.reshape(-1, 1, *heatmaps.shape[-2:])
    maps = F.conv2d(maps, kernel[None, None, :, None], padding=(radius, 0))
    return F.conv2d(maps, kernel[None, None, None, :], padding=(0, radius)).reshape(heatmaps.shape)
