"""Keypoints and the cells of heatmaps (Mask R-CNN, He et al. 2017, section 5): targets to learn, peaks to read."""

import torch
from torch import Tensor

CHUNK = 2**24  # values that a device resamples at once: 64 MiB in float32
CUBIC = -0.75  # the parameter of bicubic interpolation in torch and OpenCV (Keys 1981, equation 4)


@torch.no_grad()
def keypoint_cells(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The cell of a heatmap of `size` x `size` cells, laid over a box, that each keypoint lies in.

    Args:
        keypoints: `[..., K, 3]` x, y in continuous pixels and visibility.
        boxes: `[..., 4]`.

    Returns:
        `[..., K]` int64, the cell's number by row and column, 0 where it does not count; and `[..., K]` bool, whether
        the keypoint counts: it is labelled and lies in the box (on its far edges too).
    """
    corner, far = boxes[..., None, :2], boxes[..., None, 2:]
    place = keypoints[..., :2].to(boxes.dtype)
    inside = ((place >= corner) & (place <= far) & (far > corner)).all(-1) & (keypoints[..., 2] > 0)
    cell = (place - corner) * (size / (far - corner).clamp(min=1e-6))
    column, row = cell.floor().long().clamp(0, size - 1).unbind(-1)
    return torch.where(inside, row * size + column, 0), inside


@torch.no_grad()
def heatmap_peaks(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Where each heatmap is highest when it is resized bicubically to the pixels of its box.

    The originals' way (Detectron, torchvision, Detectron2): to whole pixels, the box's sides rounded up, and the centre
    of the highest pixel; the score is the value there, a raw logit.

    Args:
        heatmaps: `[D, K, S, S]`.
        boxes: `[D, 4]` x1, y1, x2, y2 in pixels.

    Returns:
        `[D, K, 3]` x, y in pixels and score.
    """
    boxes = boxes.to(heatmaps.dtype)
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = size.ceil()
    found = heatmaps.new_zeros((*heatmaps.shape[:2], 3))
    with torch.autocast(heatmaps.device.type, enabled=False):  # bfloat16 has too few digits for a pixel's place
        # A CPU is best at one after the other, each at its own size.
        most = 0 if boxes.device.type == "cpu" else CHUNK // heatmaps.shape[1]
        for some, width, height in _groups(pixels, most):
            found[some] = _peaks(heatmaps[some], pixels[some], width, height)
    found[..., :2] = boxes[:, None, :2] + found[..., :2] * (size / pixels)[:, None]
    return found


def _groups(pixels: Tensor, most: int) -> list[tuple[Tensor, int, int]]:
    """Which of `D` heatmaps to resample together, `[D, 2]` columns and rows each, to the largest sides among them.

    They are of about one size, and have no more than `most` pixels in all, if they are several.
    """
    order = pixels.prod(1).argsort()
    groups, first, width, height = [], 0, 0, 0
    sides = pixels.long()[order].tolist()
    for number, (w, h) in enumerate(sides):
        if number > first and (number - first + 1) * max(width, w) * max(height, h) > most:
            groups.append((order[first:number], width, height))
            first, width, height = number, 0, 0
        width, height = max(width, w), max(height, h)
    return [*groups, (order[first:], width, height)] if sides else []


def _peaks(heatmaps: Tensor, pixels: Tensor, width: int, height: int) -> Tensor:
    """`[D, K, S, S]` resized to `pixels` `[D, 2]` columns and rows: column + 0.5, row + 0.5 and height of the peak."""
    rows = _bicubic(pixels[:, 1], height, heatmaps.shape[2])[:, None]
    columns = _bicubic(pixels[:, 0], width, heatmaps.shape[3])[:, None]
    resized = rows @ heatmaps @ columns.mT
    beyond_y = torch.arange(height, device=pixels.device) >= pixels[:, 1:]
    beyond_x = torch.arange(width, device=pixels.device) >= pixels[:, :1]
    resized.masked_fill_((beyond_y[:, :, None] | beyond_x[:, None, :])[:, None], -torch.inf)
    flat = resized.flatten(2)
    place = flat.argmax(2, keepdim=True)
    score = flat.gather(2, place)
    centre = torch.cat((place % width, place // width), 2) + 0.5
    return torch.cat((centre.to(score.dtype), score), 2)


def _bicubic(pixels: Tensor, most: int, cells: int) -> Tensor:
    """`[D, most, cells]`: how much each cell counts in each pixel when `cells` become `pixels` `[D]`, along one axis.

    Cells beyond the border are those at it, as in torch's `interpolate`.
    """
    centre = (torch.arange(most, device=pixels.device, dtype=pixels.dtype) + 0.5) * (cells / pixels[:, None]) - 0.5
    before = centre.floor()
    weights = pixels.new_zeros((len(pixels), most, cells))
    for offset in (-1, 0, 1, 2):
        cell = before + offset
        away = (centre - cell).abs()
        near = ((CUBIC + 2) * away - (CUBIC + 3)) * away**2 + 1
        far = CUBIC * (((away - 5) * away + 8) * away - 4)
        weight = torch.where(away <= 1, near, far)
        weights.scatter_add_(2, cell.long().clamp(0, cells - 1)[..., None], weight[..., None])
    return weights
