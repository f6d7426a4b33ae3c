"""Keypoint head of Mask R-CNN (He et al. 2017, section 5): predicts one heatmap per region and keypoint."""

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
from chordate.ops.heatmaps import keypoint_cells
from chordate.ops.losses import masked_mean
from chordate.ops.padded_index import PaddedIndex, cat_boxes
from chordate.ops.pooling import RoIPooler, pyramid_levels
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, PaddedDetections, SampledRoIs


@HEADS.register_module()
class KeypointHead(nn.Module):
    """Pools regions, applies convolutions, and upsamples by 4: by 2 with a deconvolution, then by 2 bilinearly.

    The defaults are the paper's and Detectron2's (`KRCNNConvDeconvUpsampleHead`): 14×14 regions, 56×56 heatmaps.

    Args:
        in_features: specs of the available feature maps.
        num_keypoints: number of keypoints per object.
        levels: names of the feature maps to pool from; all up to stride 32 by default.
        resolution, sampling_ratio, aligned: see `RoIPooler`; a heatmap has 4 · `resolution` cells per side.
        convs, channels: number of 3×3 convolutions before the deconvolution, and their number of channels.
        loss_weight: weight of the loss.

    Raises:
        ConfigError: a level does not exist, or the levels' channels or strides do not suit `RoIPooler`.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_keypoints: PositiveInt,
        levels: Annotated[Sequence[str], NonEmpty] | None = None,
        resolution: PositiveInt = 14,
        sampling_ratio: NonNegativeInt = 0,
        aligned: bool = True,
        convs: NonNegativeInt = 8,
        channels: PositiveInt = 512,
        loss_weight: NonNegativeFloat = 1.0,
    ):
        super().__init__()
        chosen = select(in_features, levels or pyramid_levels(in_features), "KeypointHead")
        self.pooler = RoIPooler(chosen, resolution, sampling_ratio, aligned)
        self.size = 4 * resolution
        self.convs = conv_tower(self.pooler.channels, channels, convs, norm=None, init=None)
        width = channels if convs else self.pooler.channels
        self.heatmaps = nn.ConvTranspose2d(width, num_keypoints, 4, stride=2, padding=1)
        he_init(self)
        self.loss_weight = loss_weight
        self.class_rows = {"heatmaps": ClassRows(names="keypoints")}

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Predict heatmap logits `[R, num_keypoints, size, size]` of `R` boxes, float32; `size` is 4 · `resolution`.

        Args:
            features: dict from name to feature map `[N, C, H, W]`.
            boxes: `[R, 4]` in pixels of the padded batch.
            image: `[R]` int64, image index of each box.
        """
        low = at_least_float32(self.heatmaps(self.convs(self.pooler(features, boxes, image))))
        return F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)

    def loss(self, features: Mapping[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Cross-entropy over the cells of each heatmap, averaged over the labeled keypoints inside positive regions.

        Raises:
            DataError: the data has no keypoints.
        """
        if targets.keypoints is None:
            raise DataError(
                "KeypointHead: the data has no keypoints; set keypoints=True in train_data.dataset, and for "
                "ValidationLoss also in val_data.dataset"
            )
        batch = torch.arange(len(rois.boxes), device=rois.boxes.device)[:, None]
        cells, counts = keypoint_cells(targets.keypoints[batch, rois.gt_index], rois.boxes, self.size)
        counts &= rois.is_foreground[..., None]
        index = PaddedIndex(counts.any(dim=-1), rois.max_positives)
        logits = self(features, index.flatten(rois.boxes), index.image).flatten(2)
        loss = F.cross_entropy(logits.flatten(0, 1), index.flatten(cells).flatten(), reduction="none")
        return {"keypoint": self.loss_weight * masked_mean(loss, index.flatten(counts).flatten())}

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Predict heatmaps `[D, num_keypoints, size, size]`, each covering its detection's box, for the detections of
        each image."""
        boxes, image = cat_boxes(detections)
        return list(self(features, boxes, image).split([len(image) for image in detections]))

    @torch.no_grad()
    def predict_padded(self, features: Mapping[str, Tensor], detections: PaddedDetections) -> Tensor:
        """The heatmaps `[N, D, num_keypoints, size, size]` of padded detections; see `PredictsPadded`."""
        boxes, image, _ = detections.rows()
        return self(features, boxes, image).unflatten(0, detections.labels.shape)
