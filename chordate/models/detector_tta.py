"""Test-time augmentation of detectors: merges the predictions at several scales, with and without a horizontal flip.

Boxes are merged by NMS. The masks and heatmaps of each box are averaged over the augmented batches, as in Mask R-CNN's
entry to the COCO challenge (He et al. 2017, appendix B) and in Detectron2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transform

from chordate.arguments import NonEmpty, PositiveFloat
from chordate.ops.nms import select_detections
from chordate.structures import Batch, Detections


@dataclass
class AugmentedBatch:
    """A batch that is resized and possibly flipped horizontally.

    Attributes:
        images: `[N, C, H, W]`, padded at the right and the bottom.
        sizes: `[N, 2]`, height and width of each image without padding.
        factors: `[N, 4]`, scale factors of x1, y1, x2, y2 from the original batch to this batch (before the flip).
        flip: whether the images are flipped horizontally.
    """

    images: Tensor
    sizes: Tensor
    factors: Tensor
    flip: bool

    def transform_boxes(self, detections: Sequence[Detections]) -> list[Detections]:
        """Transform boxes from pixels of the original batch to pixels of this batch."""
        return [
            replace(one, boxes=self._mirror(one.boxes * factor.to(one.boxes.dtype), size))
            for one, factor, size in zip(detections, self.factors, self.sizes, strict=True)
        ]

    def inverse_boxes(self, detections: Sequence[Detections]) -> list[Detections]:
        """Transform boxes from pixels of this batch to pixels of the original batch."""
        return [
            replace(one, boxes=self._mirror(one.boxes, size) / factor.to(one.boxes.dtype))
            for one, factor, size in zip(detections, self.factors, self.sizes, strict=True)
        ]

    def _mirror(self, boxes: Tensor, size: Tensor) -> Tensor:
        if not self.flip:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack((size[1] - x2, y1, size[1] - x1, y2), dim=-1)


class DetectorTTA:
    """Creates the augmented batches on which a detector predicts.

    Args:
        scales: scale factors of the images.
        flip: whether to add a horizontally flipped batch at each scale.
    """

    def __init__(self, scales: Annotated[Sequence[PositiveFloat], NonEmpty] = (1.0,), flip: bool = False):
        self.scales, self.flip = tuple(scales), flip

    def augment(self, batch: Batch, size_divisor: int) -> list[AugmentedBatch]:
        """Augment a batch: resize it to every scale and, with `flip`, also flip each resized batch horizontally.

        Args:
            size_divisor: height and width are padded to multiples of this number.
        """
        flips = (False, True) if self.flip else (False,)
        return [augment(batch, scale, flip, size_divisor) for scale in self.scales for flip in flips]


def augment(batch: Batch, scale: float, flip: bool, size_divisor: int) -> AugmentedBatch:
    """Resize the images of a batch by the factor `scale` (bilinear, antialiased), flip them horizontally if `flip` is
    true, and pad them to multiples of `size_divisor` pixels. With a scale of 1 and no flip, they are unchanged."""
    ones = torch.ones(len(batch), 4, dtype=torch.float64, device=batch.sizes.device)
    if scale == 1 and not flip:
        return AugmentedBatch(batch.images, batch.sizes, ones, False)
    augmented = []
    for padded, (height, width) in zip(batch.images, batch.sizes.tolist()):
        image = padded[:, :height, :width]
        if scale != 1:
            image = transform.resize(image, [max(1, round(side * scale)) for side in (height, width)], antialias=True)
        augmented.append(image.flip(-1) if flip else image)
    sizes = batch.sizes.new_tensor([image.shape[-2:] for image in augmented])
    sides = [-(-side // size_divisor) * size_divisor for side in sizes.amax(0).tolist()]
    images = batch.images.new_zeros(*batch.images.shape[:2], *sides)
    for image, out in zip(augmented, images):
        out[:, : image.shape[-2], : image.shape[-1]] = image
    return AugmentedBatch(images, sizes, ones * (sizes / batch.sizes).flip(-1).repeat(1, 2), flip)


def merge_detections(detections: Sequence[list[Detections]], nms_threshold: float, topk: int) -> list[Detections]:
    """Merge the detections of several augmented batches, all in pixels of the original batch, by NMS within classes.

    Args:
        detections: for each augmented batch, one Detections per image. If there is only one batch, its detections are
            returned unchanged.
        nms_threshold: IoU threshold of the NMS.
        topk: maximum number of detections per image; the highest-scoring are kept.
    """
    if len(detections) == 1:
        return detections[0]
    parts = [part for image in zip(*detections, strict=True) for part in image]
    boxes, scores, labels = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels")
    )
    counts = torch.tensor([len(part) for part in parts], device=boxes.device)
    images = len(detections[0])
    image = torch.arange(images, device=boxes.device).repeat_interleave(len(detections)).repeat_interleave(counts)
    return select_detections(boxes, scores, labels, image, images, nms_threshold, topk)


def average_maps(
    maps: Sequence[Sequence[Tensor]], batches: Sequence[AugmentedBatch], mirrored: Sequence[int] | None = None
) -> list[Tensor]:
    """Average masks or heatmaps `[D, …, S, S]` of the `D` detections of each image over the augmented batches.

    Args:
        maps: for each augmented batch, one tensor of masks or heatmaps per image.
        batches: the augmented batches; masks and heatmaps of flipped batches are flipped back.
        mirrored: for each of the `K` keypoint channels of `[D, K, S, S]`, the index of the channel that replaces it in
            a flipped image; None if a flip does not swap channels.
    """
    restored = []
    for images, batch in zip(maps, batches, strict=True):
        if batch.flip:
            images = [x.flip(-1) if mirrored is None else x[:, list(mirrored)].flip(-1) for x in images]
        restored.append(images)
    return [torch.stack(image).mean(dim=0) if len(maps) > 1 else image[0] for image in zip(*restored, strict=True)]
