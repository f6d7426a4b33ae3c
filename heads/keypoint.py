"""The keypoint head of Mask R-CNN (He et al. 2017, section 5): one heatmap per keypoint and region."""

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
from chordate.structures import Detections, InstanceTargets, SampledRoIs


@HEADS.register_module()
class KeypointHead(nn.Module):
    """Pools regions, applies convolutions, and upsamples by 4: with a deconvolution, then bilinearly.

    Defaults are the paper's and Detectron2's (`KRCNNConvDeconvUpsampleHead`): 14 x 14 become 56 x 56.

    Args:
        in_features: the available maps.
        num_keypoints: number of keypoints per object.
        levels: the names of the maps to pool from; all up to stride 32 by default.
        resolution, sampling_ratio, aligned: see `RoIPooler`; a heatmap has four times the resolution.
        convs, channels: number and width of the 3 x 3 convolutions before the deconvolution.
        loss_weight: factor of the loss.

    Raises:
        ConfigError: the levels do not exist, or do not form a pyramid.
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
        """Heatmaps `[R, num_keypoints, size, size]` of `R` boxes, logits, float32.

        Args:
            boxes: `[R, 4]` in pixels of the padded batch.
            image: `[R]` int64, the image of each box.
        """
        low = at_least_float32(self.heatmaps(self.convs(self.pooler(features, boxes, image))))
        return F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)

    def loss(self, features: Mapping[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Cross-entropy over the cells, for every labeled keypoint that lies in its positive region.

        Raises:
            DataError: the data has no keypoints.
        """
        if targets.keypoints is None:
            raise DataError("KeypointHead: the data has no keypoints; set keypoints=True in train_data.dataset")
        batch = torch.arange(len(rois.boxes), device=rois.boxes.device)[:, None]
        cells, counts = keypoint_cells(targets.keypoints[batch, rois.gt_index], rois.boxes, self.size)
        counts &= rois.is_foreground[..., None]
        index = PaddedIndex(counts.any(dim=-1), rois.max_positives)
        logits = self(features, index.flatten(rois.boxes), index.image).flatten(2)
        loss = F.cross_entropy(logits.flatten(0, 1), index.flatten(cells).flatten(), reduction="none")
        return {"keypoint": self.loss_weight * masked_mean(loss, index.flatten(counts).flatten())}

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Heatmaps `[D, num_keypoints, size, size]` over the box of each detection (see `heatmaps_to_keypoints`)."""
        boxes, image = cat_boxes(detections)
        return list(self(features, boxes, image).split([len(image) for image in detections]))
