"""The keypoint head of Mask R-CNN (He et al. 2017, section 5): for each keypoint a map of where in the region it is."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate import checks
from chordate.contracts import ClassRows, FeatureSpec, select
from chordate.errors import DataError
from chordate.ops.boxes import at_least_float32
from chordate.ops.heatmaps import keypoint_cells
from chordate.ops.losses import masked_mean
from chordate.ops.pooling import RoIPooler, pyramid_levels
from chordate.ops.padded_index import Slots, rows_of
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, SampledRoIs


@HEADS.register_module()
class KeypointHead(nn.Module):
    """Pools regions, convolves them, and quadruples their size: by a deconvolution to heatmaps, then bilinearly.

    Defaults are the paper's and Detectron2's (`KRCNNConvDeconvUpsampleHead`): 14 x 14 become 56 x 56.

    Args:
        in_features: the maps on offer.
        num_keypoints: of an object.
        levels: the names of the maps to pool from; all up to stride 32 by default.
        resolution, sampling_ratio, aligned: see `RoIPooler`; a heatmap has four times the resolution.
        convs, channels: 3 x 3 convolutions before the deconvolution, and how wide they are.
        loss_weight: multiplies the loss.

    Raises:
        ConfigError: the levels are not on offer, or do not form a pyramid, or a setting is out of its range.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_keypoints: int,
        levels: Sequence[str] | None = None,
        resolution: int = 14,
        sampling_ratio: int = 0,
        aligned: bool = True,
        convs: int = 8,
        channels: int = 512,
        loss_weight: float = 1.0,
    ):
        super().__init__()
        checks.whole("KeypointHead", 0, convs=convs, sampling_ratio=sampling_ratio)
        checks.whole("KeypointHead", 1, num_keypoints=num_keypoints, resolution=resolution, channels=channels)
        chosen = select(in_features, levels or pyramid_levels(in_features), "KeypointHead")
        self.pooler = RoIPooler(chosen, resolution, sampling_ratio, aligned)
        self.size = 4 * resolution
        self.convs = nn.Sequential()
        width = self.pooler.channels
        for _ in range(convs):
            self.convs.append(nn.Sequential(nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(inplace=True)))
            width = channels
        self.heatmaps = nn.ConvTranspose2d(width, num_keypoints, 4, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.loss_weight = loss_weight
        self.class_rows = {"heatmaps": ClassRows(names="keypoints")}

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Heatmaps `[R, num_keypoints, size, size]` of `R` boxes, logits, float32.

        Args:
            boxes: `[R, 4]` in pixels of the padded batch.
            image: `[R]` int64, the image of each.
        """
        low = at_least_float32(self.heatmaps(self.convs(self.pooler(features, boxes, image))))
        return F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)

    def loss(self, features: Mapping[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Cross-entropy over the cells, of every labelled keypoint that lies in its positive region.

        Raises:
            DataError: the data has no keypoints.
        """
        if targets.keypoints is None:
            raise DataError("KeypointHead: the training data has no keypoints; set train_data.dataset.keypoints=True")
        some = slice(rois.max_positives)
        boxes, index, positive = rois.boxes[:, some], rois.gt_index[:, some], rois.is_foreground[:, some]
        batch = torch.arange(len(index), device=index.device)[:, None]
        cells, shown = keypoint_cells(targets.keypoints[batch, index], boxes, self.size)
        shown &= positive[..., None]
        slots = Slots(shown.any(dim=-1))
        logits = self(features, slots(boxes), slots.image).flatten(2)
        loss = F.cross_entropy(logits.flatten(0, 1), slots(cells).flatten(), reduction="none")
        return {"keypoint": self.loss_weight * masked_mean(loss, slots(shown).flatten())}

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Heatmaps `[D, num_keypoints, size, size]` over the box of each detection (see `heatmap_peaks`)."""
        boxes, image = rows_of(detections)
        return list(self(features, boxes, image).split([len(found) for found in detections]))
