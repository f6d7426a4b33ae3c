"""Interpolation weights along one axis, for resampling masks and heatmaps by matrix products, and for RoIAlign on CPUs.

Pixels are squares: pixel `i` covers `i … i + 1`, and its center lies at `i + 0.5`. A mask or heatmap `x`
`[..., H, W]` is resampled by `rows @ x @ columns.mT`, with weights `rows` `[..., h, H]` and `columns` `[..., w, W]`.
Below, *cells* belong to a box's small grid (mask, heatmap or RoIAlign bins), *pixels* to the image, feature map or
bitmap.
"""

import torch
from torch import Tensor

CUBIC = -0.75  # the parameter of bicubic interpolation in torch and OpenCV (Keys 1981, equation 4)


def bilinear_weights(low: Tensor, high: Tensor, first: Tensor, pixels: int, cells: int) -> Tensor:
    """Bilinear weights `[D, pixels, cells]` from a zero-padded row of cells to the centers of pixels.

    Within half a cell beyond each end of the row, the weights decrease to 0.

    Args:
        low, high: `[D]`, start and end of the row, which is a side of a box, in pixels.
        first: `[D]`, index of the first pixel of the output.
        pixels, cells: number of output pixels, and of input cells.
    """
    centers = first[:, None] + torch.arange(pixels, device=low.device, dtype=low.dtype) + 0.5
    extent = (high - low).clamp(min=1e-6)
    position = (centers - low[:, None]) / extent[:, None] * cells - 0.5
    cell = torch.arange(cells, device=low.device, dtype=low.dtype)
    return (1 - (position[:, :, None] - cell).abs()).clamp(min=0)


def bicubic_weights(pixels: Tensor, max_pixels: int, cells: int) -> Tensor:
    """Weights `[D, max_pixels, cells]` that resize rows of `cells` cells to `pixels` `[D]` pixels. Border cells are
    replicated, as in torch's `interpolate`. Weights of output pixels beyond `pixels` are undefined."""
    centers = torch.arange(max_pixels, device=pixels.device, dtype=pixels.dtype) + 0.5
    position = centers * (cells / pixels[:, None]) - 0.5
    below = position.floor()
    weights = pixels.new_zeros((len(pixels), max_pixels, cells))
    for offset in (-1, 0, 1, 2):
        cell = below + offset
        weight = cubic_kernel((position - cell).abs())
        weights.scatter_add_(2, cell.long().clamp(0, cells - 1)[..., None], weight[..., None])
    return weights


def cubic_kernel(distance: Tensor) -> Tensor:
    """Bicubic weights of cells at the given distances (≥ 0) from a position; 0 for distances ≥ 2."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def area_weights(low: Tensor, high: Tensor, cells: int, pixels: int) -> Tensor:
    """Weights `[R, cells, pixels]` that average a bilinearly interpolated, zero-padded bitmap over each of `cells`
    equal bins between `low` and `high` (`[R]`, in pixels).

    A pixel has the weight 1 - |u| at a distance |u| ≤ 1 from its center; the integral of this weight is u - u|u| / 2.
    """
    width = (high - low).clamp(min=1e-3)[:, None] / cells
    edges = low[:, None] + width * torch.arange(cells + 1, device=low.device, dtype=low.dtype)
    centers = torch.arange(pixels, device=low.device, dtype=low.dtype) + 0.5
    u = (edges[:, :, None] - centers).clamp(-1, 1)
    return (u - u * u.abs() / 2).diff(dim=1) / width[:, :, None]


def bilinear_taps(
    low: Tensor, span: Tensor, size: Tensor, cells: int, samples: int, sparse: bool
) -> tuple[Tensor, Tensor]:
    """RoIAlign along one axis: the pixels that each output bin reads, and their weights, each `[R, cells, T]`.

    T is the number of pixels per bin, with repeats: `2 * samples` if `sparse`, else `samples + 1`; 1 without samples.

    Args:
        low, span: `[R]`, start and length of each region, in pixels of its feature map.
        size: `[R]`, number of pixels of each region's feature map along this axis.
        cells: number of output bins per region.
        samples: number of equally spaced samples per bin.
        sparse: whether samples may be more than a pixel apart; if not, a bin reads at most `samples + 1` adjacent
            pixels.
    """
    if samples == 0:  # regions of zero length have no samples, so their bins read no pixel
        zeros = low.new_zeros(len(low), cells, 1)
        return zeros.long(), zeros
    step = span[:, None, None] / (cells * samples)
    number = torch.arange(cells * samples, dtype=low.dtype).view(cells, samples) + 0.5
    position = low[:, None, None] + number * step  # [R, cells, samples]
    last = size[:, None, None] - 1
    inside = (position >= -1) & (position <= last + 1)
    position = position.clamp(min=0).minimum(last)
    if sparse:
        below = position.floor()
        pixel = torch.stack((below, below + 1), dim=-1)
        weight = (1 - (position[..., None] - pixel).abs()) * inside[..., None]
        pixel, weight = pixel.flatten(2), weight.flatten(2)
    else:
        pixel = position[..., :1].floor() + torch.arange(samples + 1)
        near = (1 - (position[..., None] - pixel[..., None, :]).abs()).clamp(min=0)
        weight = (near * inside[..., None]).sum(dim=2)
    return pixel.long().minimum(last), weight / samples
