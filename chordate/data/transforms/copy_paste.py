"""Simple Copy-Paste augmentation: pastes instances of one image onto another (Ghiasi et al. 2021)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import wrap

from chordate.arguments import Fraction
from chordate.data.instance_keypoints import InstanceKeypoints
from chordate.data.polygons import Polygons, Ring
from chordate.data.rasterize import rasterize
from chordate.data.rle import mask_rings
from chordate.data.transforms.mixing import Sample, check_instances, draw_partners, join, same_size
from chordate.data.transforms.sanitize import select_instances
from chordate.errors import ConfigError
from chordate.registry import TRANSFORMS

Window = tuple[slice, slice]  # rows and columns of an image
# Minimum visible fraction of an instance's area; instances below it are dropped. The authors' code has a minimum number
# of visible pixels instead, so whether it drops an instance depends on the scale of the image.
MIN_VISIBLE = 0.1


@TRANSFORMS.register_module()
class CopyPaste:
    """Paste a random subset of another image's instances onto an image (section 3 of the paper).

    The number of pasted instances is uniform from none to all, as in the authors' code; edges are not blended. Pixels
    that a pasted instance covers are removed from the masks of the instances below, and their boxes shrink to the
    visible part. Covered keypoints become hidden (visibility 1). Instances with less than a tenth of their area visible
    are dropped. Crowds and instances without a mask are neither pasted nor changed. Both images are padded to the
    larger height and the larger width.

    The earlier transforms of the pipeline (in the paper, a flip and large-scale jitter) are applied to both images.

    Args:
        p: probability per sample.

    Raises:
        ConfigError: the samples have no instances or no masks.
    """

    def __init__(self, p: Fraction = 1.0):
        self.p = p

    def __call__(self, sample: Sample) -> Sample:
        check_instances(sample, "CopyPaste")
        if "polygons" not in sample:
            raise ConfigError("CopyPaste needs masks to cut out objects; set masks=True in the dataset")
        if torch.rand(()) >= self.p:
            return sample
        for other in draw_partners(sample, 1, "CopyPaste"):
            candidates = torch.nonzero(other["has_mask"] if "has_mask" in other else ~other["crowd"])[:, 0]
            count = int(torch.randint(len(candidates) + 1, ()))
            chosen = torch.zeros_like(other["crowd"])
            chosen[candidates[torch.randperm(len(candidates))[:count]]] = True
            if count:
                sample = paste(select_instances(other, chosen), sample)
        return sample


def paste(source: Sample, onto: Sample) -> Sample:
    """Paste all instances of one sample onto another."""
    source, onto = same_size([source, onto])
    cover = np.zeros(onto["image"].shape[-2:], np.bool_)
    for rings in source["polygons"].rings():
        window, mask = _pixels(rings, cover.shape)
        cover[window] |= mask
    image = torch.where(torch.from_numpy(cover), source["image"], onto["image"])
    return join(image, [occlude(onto, cover), source])


def occlude(sample: Sample, cover: NDArray[np.bool_]) -> Sample:
    """Remove the pixels of `cover` `[H, W]` from the sample's masks; changed polygons follow pixel borders.

    Boxes and keypoints change, and instances are dropped, as described in `CopyPaste`.
    """
    polygons: Polygons = sample["polygons"]
    rings, touched, kept = polygons.rings(), torch.zeros(polygons.count).bool(), torch.ones(polygons.count).bool()
    for number, own in enumerate(rings):
        window, mask = _pixels(own, cover.shape)
        visible = mask & ~cover[window]
        if visible.sum() < mask.sum():
            corner = np.array([window[1].start, window[0].start], np.float32)
            rings[number] = [ring + corner for ring in mask_rings(visible.view(np.uint8))]
            touched[number], kept[number] = True, bool(visible.sum() >= MIN_VISIBLE * mask.sum())
    visible_polygons = Polygons.from_rings(rings, polygons.canvas_size)
    boxes = torch.where(touched[:, None], visible_polygons.bounds(), sample["boxes"].as_subclass(Tensor))
    sample = {**sample, "polygons": visible_polygons, "boxes": wrap(boxes, like=sample["boxes"])}
    if "keypoints" in sample:
        keypoints = sample["keypoints"].as_subclass(Tensor).clone()
        column, row = keypoints[..., 0].long(), keypoints[..., 1].long()
        hidden = torch.from_numpy(cover)[row.clamp(0, cover.shape[0] - 1), column.clamp(0, cover.shape[1] - 1)]
        keypoints[..., 2][hidden] = keypoints[..., 2][hidden].clamp(max=1)
        sample["keypoints"] = InstanceKeypoints(
            keypoints, mirrored=sample["keypoints"].mirrored, canvas_size=polygons.canvas_size
        )
    return select_instances(sample, kept)


def _pixels(rings: Sequence[Ring], canvas: tuple[int, ...]) -> tuple[Window, NDArray[np.bool_]]:
    """Rasterize an instance: returns a window of the image around it, and its bitmap in that window."""
    vertices = np.concatenate([*rings, np.zeros((0, 2), np.float32)])
    limit = np.array([canvas[1], canvas[0]])
    low = np.floor(vertices.min(0, initial=np.inf)).clip(0, limit)
    high = np.ceil(vertices.max(0, initial=-np.inf)).clip(low, limit)
    (left, top), (right, bottom) = low.astype(int).tolist(), high.astype(int).tolist()
    alone = Polygons.from_rings([rings], (canvas[0], canvas[1]))
    mask = rasterize(alone, torch.tensor([[left, top, right, bottom]]), bottom - top, right - left)
    return (slice(top, bottom), slice(left, right)), mask[0].numpy().view(np.bool_)
