"""Test-time augmentation of detectors: a batch is looked at at several sizes and in a mirror, and what is found merged.

Boxes are merged by the head's own NMS, and what heads say of each box (masks, heatmaps of keypoints) is averaged over
the views (Mask R-CNN's entry to COCO's challenge: He et al. 2017, appendix B; Detectron2 does so too).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transform

from chordate import checks
from chordate.errors import ConfigError, unknown
from chordate.ops.detections import best_detections
from chordate.structures import Batch, Detections

SETTINGS = ("scales", "flip")


@dataclass
class Look:
    """A batch as one view shows it.

    Attributes:
        images: `[N, 3, H, W]`, padded at the right and the bottom.
        sizes: `[N, 2]` height and width of each image within the padding.
        factors: `[N, 4]` what takes x1, y1, x2, y2 in the batch to this view, before it is mirrored.
        flip: mirrored, left and right exchanged.
    """

    images: Tensor
    sizes: Tensor
    factors: Tensor
    flip: bool

    def there(self, detections: Sequence[Detections]) -> list[Detections]:
        """Detections in the batch's pixels to pixels of this view."""
        return [
            Detections(self._mirrored(found.boxes * factor.to(found.boxes.dtype), size), found.scores, found.labels)
            for found, factor, size in zip(detections, self.factors, self.sizes, strict=True)
        ]

    def back(self, detections: Sequence[Detections]) -> list[Detections]:
        """Detections in pixels of this view to the batch's."""
        return [
            Detections(self._mirrored(found.boxes, size) / factor.to(found.boxes.dtype), found.scores, found.labels)
            for found, factor, size in zip(detections, self.factors, self.sizes, strict=True)
        ]

    def _mirrored(self, boxes: Tensor, size: Tensor) -> Tensor:
        if not self.flip:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack((size[1] - x2, y1, size[1] - x1, y2), dim=-1)


@dataclass(frozen=True)
class View:
    """One way to look at images: their sides times `scale`, and mirrored if `flip`."""

    scale: float = 1.0
    flip: bool = False
    size_divisor: int = 1  # what the view's padded sides are multiples of

    def of(self, batch: Batch) -> Look:
        """The batch in this view; images are resized bilinearly, antialiased."""
        ones = torch.ones(len(batch), 4, dtype=torch.float64, device=batch.sizes.device)
        if self.scale == 1 and not self.flip:
            return Look(batch.images, batch.sizes, ones, False)
        shown = []
        for image, (height, width) in zip(batch.images, batch.sizes.tolist()):
            view = image[:, :height, :width]
            if self.scale != 1:
                sides = [max(1, round(side * self.scale)) for side in (height, width)]
                view = transform.resize(view, sides, antialias=True)
            shown.append(view.flip(-1) if self.flip else view)
        sizes = batch.sizes.new_tensor([view.shape[-2:] for view in shown])
        sides = [-(-side // self.size_divisor) * self.size_divisor for side in sizes.amax(0).tolist()]
        images = batch.images.new_zeros(*batch.images.shape[:2], *sides)
        for view, into in zip(shown, images):
            into[:, : view.shape[-2], : view.shape[-1]] = view
        return Look(images, sizes, ones * (sizes / batch.sizes).flip(-1).repeat(1, 2), self.flip)


class Merging(Protocol):
    """The head whose boxes are merged."""

    nms_threshold: float
    detections_per_image: int


def merged(found: Sequence[list[Detections]], head: Merging) -> list[Detections]:
    """What the views found in each image of a batch, all in its pixels, as one; that of a single view as it is."""
    if len(found) == 1:
        return found[0]
    of_image = [detections for image in zip(*found, strict=True) for detections in image]
    boxes, scores, labels = (torch.cat([getattr(d, name) for d in of_image]) for name in ("boxes", "scores", "labels"))
    counts = torch.tensor([len(d) for d in of_image], device=boxes.device)
    image = torch.arange(len(found[0]), device=boxes.device).repeat_interleave(len(found)).repeat_interleave(counts)
    return best_detections(boxes, scores, labels, image, len(found[0]), head.nms_threshold, head.detections_per_image)


def averaged(
    maps: Sequence[list[Tensor]], looks: Sequence[Look], mirrored: Sequence[int] | None = None
) -> list[Tensor]:
    """The mean over the views of maps `[D, …, S, S]` that are laid over the boxes of each image.

    Args:
        maps: of each view.
        looks: the views; maps of mirrored ones are mirrored back.
        mirrored: the channel of `[D, K, S, S]` that each becomes in a mirror; None where they stay.
    """
    restored = []
    for of_view, look in zip(maps, looks, strict=True):
        if look.flip:
            of_view = [one.flip(-1) if mirrored is None else one[:, list(mirrored)].flip(-1) for one in of_view]
        restored.append(of_view)
    return [torch.stack(image).mean(dim=0) if len(maps) > 1 else image[0] for image in zip(*restored, strict=True)]


def build_views(settings: Mapping[str, Any] | None, size_divisor: int) -> tuple[View, ...]:
    """What a config's `tta` describes: every scale, and with `flip` each of them mirrored too.

    Args:
        size_divisor: of the model.
        settings: `dict(scales=[0.75, 1.0, 1.25], flip=True)`, of which either may be left out; None for the plain view.

    Raises:
        ConfigError: an unknown key, or scales that are none.
    """
    for key in checks.section("model.tta", settings):
        if key not in SETTINGS:
            raise ConfigError(f"model.tta: {unknown('setting', key, SETTINGS)}")
    scales, flip = (settings or {}).get("scales", [1.0]), (settings or {}).get("flip", False)
    for scale in checks.listed("model.tta.scales", scales):
        checks.number("model.tta.scales", scale, above=0)
    if not scales or not isinstance(flip, bool):
        raise ConfigError("model.tta: scales is a list of at least one number, flip is True or False")
    return tuple(View(float(scale), mirror, size_divisor) for scale in scales for mirror in ((False, True) if flip else (False,)))
