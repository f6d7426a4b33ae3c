"""Mask head of Mask R-CNN (He et al. 2017, section 3): predicts one small mask per region."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonEmpty, NonNegativeFloat, NonNegativeInt, PositiveInt
from chordate.contracts import FeatureSpec, select
from chordate.errors import DataError
from chordate.head_contracts import ClassRows
from chordate.ops.boxes import at_least_float32
from chordate.ops.convolutions import conv_tower, he_init
from chordate.ops.losses import masked_mean
from chordate.ops.norms import Norm
from chordate.ops.padded_index import PaddedIndex, cat_boxes
from chordate.ops.pooling import RoIPooler, pyramid_levels
from chordate.ops.resampling import area_weights
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, PaddedDetections, SampledRoIs


@HEADS.register_module()
class MaskHead(nn.Module):
    """Pools regions, applies convolutions, doubles the resolution, and classifies each mask pixel as object or not.

    The defaults are Detectron2's for FPN (`Base-RCNN-FPN.yaml`, `MaskRCNNConvUpsampleHead`).

    Args:
        in_features: specs of the available feature maps.
        num_classes: number of classes without background.
        levels: names of the feature maps to pool from; all up to stride 32 by default.
        resolution, sampling_ratio, aligned: see `RoIPooler`; a mask has twice `resolution` pixels per side.
        convs, channels: number of 3×3 convolutions before the deconvolution, and number of channels of all layers but
            the last.
        norm: norm after each 3×3 convolution, see `make_norm`.
        class_agnostic: whether to predict one mask per region instead of one per region and class.
        loss_weight: weight of the loss.
        roi_channels: number of channels of the `roi_features` that `loss` and `predict` receive if the box head's trunk
            is shared (the C4 layout); the pooling settings of this head are then ignored. None if this head pools the
            regions itself.

    Raises:
        ConfigError: a level does not exist, or the levels' channels or strides do not suit `RoIPooler`.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        levels: Annotated[Sequence[str], NonEmpty] | None = None,
        resolution: PositiveInt = 14,
        sampling_ratio: NonNegativeInt = 0,
        aligned: bool = True,
        convs: NonNegativeInt = 4,
        channels: PositiveInt = 256,
        norm: Norm = None,
        class_agnostic: bool = False,
        loss_weight: NonNegativeFloat = 1.0,
        roi_channels: PositiveInt | None = None,
    ):
        super().__init__()
        if roi_channels is None:
            chosen = select(in_features, levels or pyramid_levels(in_features), "MaskHead")
            self.pooler = RoIPooler(chosen, resolution, sampling_ratio, aligned)
        width = self.pooler.channels if roi_channels is None else roi_channels
        self.convs = conv_tower(width, channels, convs, norm)
        self.upsample = nn.ConvTranspose2d(channels if convs else width, channels, 2, stride=2)
        self.masks = nn.Conv2d(channels, 1 if class_agnostic else num_classes, 1)
        he_init(self.upsample)
        nn.init.normal_(self.masks.weight, std=0.001)
        assert self.masks.bias is not None
        nn.init.zeros_(self.masks.bias)
        self.loss_weight = loss_weight
        self.class_rows = {} if class_agnostic else {"masks": ClassRows()}

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """Predict the mask logits `[R, M, M]` of `R` boxes for their classes, float32; `M` is twice the resolution.

        Args:
            features: dict from name to feature map `[N, C, H, W]`.
            boxes: `[R, 4]` in pixels of the padded batch.
            image: `[R]` int64, image index of each box.
            labels: `[R]` int64, class of each box; background boxes get the mask of an arbitrary class.
        """
        return self.logits(self.pooler(features, boxes, image), labels)

    def logits(self, roi_features: Tensor, labels: Tensor) -> Tensor:
        """Mask logits as in `forward`, from pooled regions `[R, C, S, S]`.

        The last convolution is computed only for the class of each region.
        """
        x = F.relu(self.upsample(self.convs(roi_features)), inplace=True)
        row = labels.clamp(max=self.masks.out_channels - 1)
        weight, bias = self.masks.weight.flatten(1)[row], self.masks.bias[row]  # type: ignore[index]
        cells = x.permute(0, 2, 3, 1).flatten(1, 2)  # keeps the gradient in NHWC, the layout of the convolutions
        logits = torch.baddbmm(bias[:, None, None], cells, weight[:, :, None])
        return at_least_float32(logits.view(-1, *x.shape[2:]))

    def loss(
        self,
        features: Mapping[str, Tensor],
        rois: SampledRoIs,
        targets: InstanceTargets,
        roi_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean binary cross-entropy over the pixels of the positive regions' masks, for their true class (section 3).

        Regions of objects whose mask is not known (`targets.has_mask`) do not count.

        Args:
            roi_features: the trunk's output for the rows of `PaddedIndex(rois.valid)`, if the trunk is shared.

        Raises:
            DataError: the data has no masks.
        """
        if targets.masks is None:
            raise DataError(
                "MaskHead: the data has no masks; set masks=True in train_data.dataset, and for ValidationLoss "
                "also in val_data.dataset"
            )
        index = PaddedIndex(rois.is_foreground, rois.max_positives)
        boxes, labels, gt_index = map(index.flatten, (rois.boxes, rois.labels, rois.gt_index))
        if roi_features is None:
            logits = self(features, boxes, index.image, labels)
        else:
            logits = self.logits(PaddedIndex(rois.valid).select(roi_features, index), labels)
        frames = targets.boxes[index.image, gt_index]
        truth = mask_targets(targets.masks, frames, index.image, gt_index, boxes, logits.shape[-1])
        per_region = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2))
        known = index.present
        if targets.has_mask is not None:
            known = known & targets.has_mask[index.image, gt_index]
        return {"mask": self.loss_weight * masked_mean(per_region, known)}

    @torch.no_grad()
    def predict(
        self,
        features: Mapping[str, Tensor],
        detections: Sequence[Detections],
        roi_features: Tensor | None = None,
    ) -> list[Tensor]:
        """Predict mask probabilities `[D, M, M]`, each covering its detection's box, for the detections of each image.

        Args:
            detections: one Detections per image, with boxes in pixels of the padded batch.
            roi_features: the trunk's output for all detections, image by image, if the box head's trunk is shared.
        """
        labels = torch.cat([image.labels for image in detections])
        if roi_features is None:
            logits = self(features, *cat_boxes(detections), labels)
        else:
            logits = self.logits(roi_features, labels)
        return list(logits.sigmoid().split([len(image) for image in detections]))

    @torch.no_grad()
    def predict_padded(
        self, features: Mapping[str, Tensor], detections: PaddedDetections, roi_features: Tensor | None = None
    ) -> Tensor:
        """The mask probabilities `[N, D, M, M]` of padded detections; see `PredictsPadded`."""
        boxes, image, labels = detections.rows()
        if roi_features is None:
            roi_features = self.pooler(features, boxes, image)
        return self.logits(roi_features, labels).sigmoid().unflatten(0, detections.labels.shape)


@torch.no_grad()
def mask_targets(masks: Tensor, frames: Tensor, image: Tensor, gt_index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Make the target mask of each region: its object's bitmap cropped to the region, `[R, size, size]` 0 or 1.

    A pixel is 1 if the mean of the bitmap (interpolated bilinearly, zero outside) over the pixel is at least 0.5. This
    mean is the limit of RoIAlign with many samples, computed by two small matrix products per region.

    Args:
        masks: `[N, G, 112, 112]`, bitmaps of the objects, each covering its object's box.
        frames: `[R, 4]`, the box of each region's object.
        image, gt_index: `[R]` int64, index of each region's image, and of its object among the image's targets.
        boxes: `[R, 4]`, the regions, in pixels of the padded batch.
        size: pixels per side of the target masks.
    """
    slots, side = masks.shape[1], masks.shape[-1]
    corner = frames[:, :2].repeat(1, 2)
    extent = (frames[:, 2:] - frames[:, :2]).clamp(min=1e-3).repeat(1, 2)
    inside = at_least_float32((boxes - corner) / extent * side)  # the corners of the regions, in pixels of the bitmap
    bitmaps = masks.flatten(0, 1)[image * slots + gt_index].to(inside.dtype)
    with torch.autocast(boxes.device.type, enabled=False):  # bfloat16 is too imprecise for pixel positions
        rows = area_weights(inside[:, 1], inside[:, 3], size, side)
        columns = area_weights(inside[:, 0], inside[:, 2], size, side)
        return (rows @ bitmaps @ columns.mT >= 0.5).to(inside.dtype)
