"""The mask head of Mask R-CNN (He et al. 2017, section 3): a small bitmap for each region."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate import checks
from chordate.contracts import ClassRows, FeatureSpec, RegionHead, select
from chordate.errors import DataError
from chordate.ops.boxes import at_least_float32
from chordate.ops.norms import make_norm
from chordate.ops.pooling import RoIPooler, pyramid_levels
from chordate.ops.padded_index import Slots, rows_of
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, SampledRoIs


@HEADS.register_module()
class MaskHead(nn.Module):
    """Pools regions, convolves them, doubles their size, and says of each cell whether it belongs to the object.

    Defaults are Detectron2's for a pyramid (`Base-RCNN-FPN.yaml`, `MaskRCNNConvUpsampleHead`).

    Args:
        in_features: the maps on offer.
        num_classes: without the background.
        levels: the names of the maps to pool from; all up to stride 32 by default.
        resolution, sampling_ratio, aligned: see `RoIPooler`; a mask has twice the resolution.
        convs, channels: 3 x 3 convolutions before the deconvolution, and how wide all are.
        norm: after each convolution, see `make_norm`.
        class_agnostic: predict one mask a region, for whatever class.
        loss_weight: multiplies the loss.
        shared: the box head, if its trunk gives maps that masks are drawn from too (the C4 layout): regions are then
            pooled by it, and the settings above that are of pooling have no meaning.

    Raises:
        ConfigError: the levels are not on offer, or do not form a pyramid, or a setting is out of its range.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: int,
        levels: Sequence[str] | None = None,
        resolution: int = 14,
        sampling_ratio: int = 0,
        aligned: bool = True,
        convs: int = 4,
        channels: int = 256,
        norm: str | Mapping[str, Any] | None = None,
        class_agnostic: bool = False,
        loss_weight: float = 1.0,
        shared: RegionHead | None = None,
    ):
        super().__init__()
        checks.whole("MaskHead", 0, convs=convs, sampling_ratio=sampling_ratio)
        checks.whole("MaskHead", 1, num_classes=num_classes, resolution=resolution, channels=channels)
        self._shared = (shared,)  # in a tuple, since its weights are not this head's
        if shared is None:
            chosen = select(in_features, levels or pyramid_levels(in_features), "MaskHead")
            self.pooler = RoIPooler(chosen, resolution, sampling_ratio, aligned)
            width = self.pooler.channels
        else:
            width = shared.trunk.out_channels
        self.convs = nn.Sequential()
        for _ in range(convs):
            conv = nn.Conv2d(width, channels, 3, padding=1, bias=norm is None)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.convs.append(nn.Sequential(conv, make_norm(norm, channels), nn.ReLU(inplace=True)))
            width = channels
        self.upsample = nn.ConvTranspose2d(width, channels, 2, stride=2)
        self.masks = nn.Conv2d(channels, 1 if class_agnostic else num_classes, 1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.masks.weight, std=0.001)
        for bias in (self.upsample.bias, self.masks.bias):
            assert bias is not None
            nn.init.zeros_(bias)
        self.loss_weight = loss_weight
        self.class_rows = {} if class_agnostic else {"masks": ClassRows()}

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """Mask logits `[R, M, M]` of `R` boxes, each of its own class, `M` twice the resolution, float32.

        Args:
            boxes: `[R, 4]` in pixels of the padded batch.
            image: `[R]` int64, the image of each.
            labels: `[R]` int64, the class of each; the background's gives any class.
        """
        (shared,) = self._shared
        pool = self.pooler if shared is None else shared.regions
        return self.logits(pool(features, boxes, image), labels)

    def logits(self, regions: Tensor, labels: Tensor) -> Tensor:
        """Mask logits, as of `forward`, from pooled regions.

        Of the last convolution only the row of a region's own class is computed: the others are neither learnt from
        nor looked at.
        """
        x = F.relu(self.upsample(self.convs(regions)), inplace=True)
        row = labels.clamp(max=self.masks.out_channels - 1)
        weight, bias = self.masks.weight.flatten(1)[row], self.masks.bias[row]  # type: ignore[index]
        cells = x.permute(0, 2, 3, 1).flatten(1, 2)  # gives a gradient in NHWC, the convolutions' layout
        logits = torch.baddbmm(bias[:, None, None], cells, weight[:, :, None])
        return at_least_float32(logits.view(-1, *x.shape[2:]))

    def loss(self, features: Mapping[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Binary cross-entropy a cell, on the positive regions and of their own class only (section 3, "decouples").

        Raises:
            DataError: the data has no masks.
        """
        if targets.masks is None:
            raise DataError("MaskHead: the training data has no masks; set train_data.dataset.masks=True")
        some = slice(rois.max_positives)
        slots = Slots(rois.is_foreground[:, some])
        boxes, labels, index = (slots(values[:, some]) for values in (rois.boxes, rois.labels, rois.gt_index))
        if rois.regions is None or self._shared == (None,):
            logits = self(features, boxes, slots.image, labels)
        else:
            logits = self.logits(Slots(rois.valid).of_leading(rois.regions, slots), labels)
        frames = targets.boxes[slots.image, index]
        truth = mask_targets(targets.masks, frames, slots.image, index, boxes, logits.shape[-1])
        per_region = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2))
        total = torch.where(slots.present, per_region, 0.0).sum()
        return {"mask": self.loss_weight * total / slots.present.sum().clamp(min=1)}

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Probabilities `[D, M, M]` in the frame of each detection's box (pixels of the padded batch)."""
        boxes, image = rows_of(detections)
        labels = torch.cat([found.labels for found in detections])
        masks = self(features, boxes, image, labels).sigmoid()
        return list(masks.split([len(found) for found in detections]))


@torch.no_grad()
def mask_targets(masks: Tensor, frames: Tensor, image: Tensor, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """What the mask of each region should be: its object's bitmap cut to the region, `[R, size, size]` 0 or 1.

    A cell is set where the bitmap, interpolated bilinearly in a border of zeros, averages at least a half over it: what
    RoIAlign comes to with ever more samples, as two small matrix products a region.

    Args:
        masks: `[N, G, 112, 112]` the objects' bitmaps.
        frames: `[R, 4]` the box that the bitmap of each region's object fills.
        image, index: `[R]` int64, the image and the target slot of each region.
        boxes: `[R, 4]` the regions, in pixels of the padded batch.
        size: cells a side.
    """
    slots, side = masks.shape[1], masks.shape[-1]
    corner = frames[:, :2].repeat(1, 2)
    extent = (frames[:, 2:] - frames[:, :2]).clamp(min=1e-3).repeat(1, 2)
    inside = at_least_float32((boxes - corner) / extent * side)  # in pixels of the bitmap
    bitmaps = masks.flatten(0, 1)[image * slots + index].to(inside.dtype)
    with torch.autocast(boxes.device.type, enabled=False):  # bfloat16 has too few digits for a pixel's place
        rows = _shares(inside[:, 1], inside[:, 3], size, side)
        columns = _shares(inside[:, 0], inside[:, 2], size, side)
        return (rows @ bitmaps @ columns.mT >= 0.5).to(inside.dtype)


def _shares(low: Tensor, high: Tensor, cells: int, pixels: int) -> Tensor:
    """`[R, cells, pixels]`: how much each pixel counts in the mean over each cell from `low` to `high`, along one axis.

    Interpolated, a pixel counts 1 - |u| at the distance u ≤ 1 from its centre; the integral of it is u - u|u| / 2.
    """
    width = (high - low).clamp(min=1e-3)[:, None] / cells
    edges = low[:, None] + width * torch.arange(cells + 1, device=low.device, dtype=low.dtype)
    centres = torch.arange(pixels, device=low.device, dtype=low.dtype) + 0.5
    u = (edges[:, :, None] - centres).clamp(-1, 1)
    return (u - u * u.abs() / 2).diff(dim=1) / width[:, :, None]
