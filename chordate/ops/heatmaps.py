"""Converts keypoints to training targets, and heatmaps to keypoints (Mask R-CNN, He et al. 2017, section 5)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from chordate.ops.boxes import at_least_float32
from chordate.ops.resampling import bicubic_weights, cubic_kernel

CHUNK = 2**24  # maximum number of elements of a group of resized heatmaps: 64 MiB in float32
WINDOW = 128  # side in pixels of the part of the resized heatmap that `keypoints_in_window` computes


@torch.no_grad()
def keypoint_cells(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Find the cell of each keypoint in a `size` x `size` heatmap that covers its box.

    Args:
        keypoints: `[..., K, 3]`, x and y in continuous pixels, and visibility.
        boxes: `[..., 4]`, x1, y1, x2, y2 in pixels.
        size: height and width of the heatmap, in cells.

    Returns:
        `[..., K]` int64, the row-major index of the cell (0 for invalid keypoints); and `[..., K]` bool, whether a
        keypoint is valid, that is, labeled and inside the box (right and bottom edges included).
    """
    corner, far = boxes[..., None, :2], boxes[..., None, 2:]
    point = keypoints[..., :2].to(boxes.dtype)
    valid = ((point >= corner) & (point <= far) & (far > corner)).all(-1) & (keypoints[..., 2] > 0)
    cell = (point - corner) * (size / (far - corner).clamp(min=1e-6))
    column, row = cell.floor().long().clamp(0, size - 1).unbind(-1)
    return torch.where(valid, row * size + column, 0), valid


@torch.no_grad()
def heatmaps_to_keypoints(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Convert each heatmap to a keypoint: its peak after bicubic resizing to the pixels of the box.

    As in Detectron, torchvision and Detectron2, the box's sides are rounded up to whole pixels, and the keypoint is the
    center of the highest pixel. Its score is that pixel's value, a logit, as in torchvision.

    Args:
        heatmaps: `[D, K, S, S]`, logits.
        boxes: `[D, 4]` x1, y1, x2, y2 in pixels.

    Returns:
        `[D, K, 3]`, x and y in pixels, and score.
    """
    heatmaps = at_least_float32(heatmaps)
    boxes = boxes.to(heatmaps.dtype)
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = size.ceil()
    keypoints = heatmaps.new_zeros((*heatmaps.shape[:2], 3))
    with torch.autocast(heatmaps.device.type, enabled=False):  # bfloat16 is too imprecise for pixel positions
        # On a CPU it is fastest to resize one detection's heatmaps at a time, each to its own size.
        max_pixels = 0 if boxes.device.type == "cpu" else CHUNK // heatmaps.shape[1]
        for rows, width, height in group_by_size(pixels, max_pixels):
            keypoints[rows] = _peaks(heatmaps[rows], pixels[rows], width, height)
    keypoints[..., :2] = boxes[:, None, :2] + keypoints[..., :2] * (size / pixels)[:, None]
    return keypoints


@torch.no_grad()
def keypoints_in_window(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """`heatmaps_to_keypoints` with shapes that do not depend on the boxes, for exported models.

    For boxes with more than `WINDOW` pixels per side, the resized heatmap is computed only in a window of this size
    around the highest cell. The result differs if a pixel outside the window is higher than all pixels in the window,
    which requires a second, almost equally high peak.

    Args:
        heatmaps: `[N, D, K, S, S]`, logits.
        boxes: `[N, D, 4]` x1, y1, x2, y2 in pixels.

    Returns:
        `[N, D, K, 3]`, x and y in pixels, and score.
    """
    heatmaps = at_least_float32(heatmaps)
    side = heatmaps.shape[-1]
    size = (boxes[..., 2:] - boxes[..., :2]).to(heatmaps.dtype).clamp(min=1)[..., None, :]  # [N, D, 1, 2]
    pixels = size.ceil()
    cell = heatmaps.flatten(-2).argmax(-1)
    peak = torch.stack((cell % side, cell // side), -1)  # [N, D, K, 2] x, y
    step = torch.arange(WINDOW, device=heatmaps.device)
    middle = ((peak + 0.5) * (pixels / side)).floor()
    first = (middle - WINDOW // 2).minimum(pixels - WINDOW).clamp(min=0)
    pixel = first[..., None] + step  # [N, D, K, 2, WINDOW]
    position = (pixel + 0.5) * (side / pixels[..., None]) - 0.5
    padding = 2  # cells that bicubic interpolation reads beyond the border
    cells = torch.arange(-padding, side + padding, device=heatmaps.device, dtype=heatmaps.dtype)
    weights = cubic_kernel((position[..., None] - cells).abs())
    bordered = F.pad(heatmaps.flatten(0, 2), (padding,) * 4, mode="replicate").unflatten(0, heatmaps.shape[:3])
    resized = weights[..., 1, :, :] @ bordered @ weights[..., 0, :, :].mT
    inside = pixel < pixels[..., None]
    resized = torch.where(inside[..., 1, :, None] & inside[..., 0, None, :], resized, -torch.inf)
    score, index = resized.flatten(-2).max(-1)
    center = first + torch.stack((index % WINDOW, index // WINDOW), -1) + 0.5
    return torch.cat((boxes[..., None, :2] + center * (size / pixels), score[..., None]), -1)


def group_by_size(pixels: Tensor, max_pixels: int) -> list[tuple[Tensor, int, int]]:
    """Group heatmaps of similar size, to resample each group at once.

    Args:
        pixels: `[D, 2]`, the width and height that each heatmap is resized to (integers).
        max_pixels: limit on the total pixels of a group of several heatmaps, each counted with the largest width and
            height in the group.

    Returns:
        For each group, the indices of its heatmaps (`[G]` int64), and their largest width and height. Each heatmap is
        in one group; the list is empty if there are no heatmaps.
    """
    order = pixels.prod(1).argsort()
    groups, first, width, height = [], 0, 0, 0
    sides = pixels.long()[order].tolist()
    for number, (w, h) in enumerate(sides):
        if number > first and (number - first + 1) * max(width, w) * max(height, h) > max_pixels:
            groups.append((order[first:number], width, height))
            first, width, height = number, 0, 0
        width, height = max(width, w), max(height, h)
    return [*groups, (order[first:], width, height)] if sides else []


def _peaks(heatmaps: Tensor, pixels: Tensor, width: int, height: int) -> Tensor:
    """Resize heatmaps `[D, K, S, S]`, each to its own width and height `pixels` `[D, 2]`, at most `width` and `height`.

    Returns x, y (pixel center) and value of each peak, `[D, K, 3]`.
    """
    rows = bicubic_weights(pixels[:, 1], height, heatmaps.shape[2])[:, None]
    columns = bicubic_weights(pixels[:, 0], width, heatmaps.shape[3])[:, None]
    resized = rows @ heatmaps @ columns.mT
    beyond_y = torch.arange(height, device=pixels.device) >= pixels[:, 1:]
    beyond_x = torch.arange(width, device=pixels.device) >= pixels[:, :1]
    resized.masked_fill_((beyond_y[:, :, None] | beyond_x[:, None, :])[:, None], -torch.inf)
    flat = resized.flatten(2)
    index = flat.argmax(2, keepdim=True)
    score = flat.gather(2, index)
    center = torch.cat((index % width, index // width), 2) + 0.5
    return torch.cat((center.to(score.dtype), score), 2)
