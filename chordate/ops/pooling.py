"""RoIAlign on a feature pyramid: each region is pooled from the level that corresponds to its size."""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.libraries import HAS_TRITON
from chordate.ops.boxes import area, at_least_float32
from chordate.ops.roi_align_cpu import pyramid_roi_align

# FPN (Lin et al. 2017, equation 1): a region of 224 x 224 px (ImageNet's crop size) is pooled from p4 (stride 16).
CANONICAL_SIZE = 224
CANONICAL_STAGE = 4
COARSEST_STRIDE = 32  # FPN, section 4.2: regions are pooled from p2 … p5
FAR_AWAY = -1e5  # pixels; for boxes at this coordinate, RoIAlign returns zeros without reading the feature map


def pyramid_levels(in_features: Mapping[str, FeatureSpec]) -> list[str]:
    """Names of the feature maps that regions are pooled from by default: all up to stride 32."""
    return [name for name, spec in in_features.items() if spec.stride <= COARSEST_STRIDE]


class RoIPooler(nn.Module):
    """Crops regions from feature maps and resamples each to `resolution` x `resolution` (Mask R-CNN, section 3).

    Args:
        in_features: the feature maps to pool from, fine to coarse, with equal channels and strides that double from map
            to map.
        resolution: height and width of the output, in bins.
        sampling_ratio: number of samples along each side of a bin; 0 for about one sample per pixel of the feature map.
        aligned: whether pixel centers lie at half-integer coordinates, as in Detectron2. torchvision's detectors were
            trained with `aligned=False`, which shifts samples by half a pixel.

    Raises:
        ConfigError: the feature maps differ in channels, or their strides do not double.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        resolution: int,
        sampling_ratio: int = 0,
        aligned: bool = True,
    ):
        super().__init__()
        strides = [spec.stride for spec in in_features.values()]
        channels = {spec.channels for spec in in_features.values()}
        if len(channels) != 1 or any(b != 2 * a for a, b in itertools.pairwise(strides)):
            offer = ", ".join(f"{name} ({spec})" for name, spec in in_features.items())
            raise ConfigError(
                f"RoIs are pooled from feature maps with equal channels and doubling strides; got {offer}. "
                f"Add a neck such as FPN, or choose one feature map with levels=[…]"
            )
        self.names = tuple(in_features)
        self.strides = tuple(strides)
        self.first_stage = round(math.log2(strides[0]))
        self.channels = channels.pop()
        self.resolution = resolution
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def levels(self, boxes: Tensor) -> Tensor:
        """Assign boxes `[R, 4]` to pyramid levels (FPN, equation 1). Returns level indices `[R]` as floats, 0 for the
        finest level."""
        size = area(boxes).clamp(min=0).sqrt()
        # As in Detectron2 and torchvision, the epsilon keeps rounding from moving 224 x 224 px to a finer level.
        stage = torch.floor(CANONICAL_STAGE + torch.log2(size / CANONICAL_SIZE) + 1e-6)
        return stage.clamp(self.first_stage, self.first_stage + len(self.strides) - 1) - self.first_stage

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Pool `R` boxes, each from its level.

        Args:
            features: dict from name to feature map `[N, C, H, W]`.
            boxes: `[R, 4]` in pixels of the padded batch.
            image: `[R]` int64, image index of each box.

        Returns:
            `[R, C, resolution, resolution]` in the data type of the feature maps.
        """
        maps = [features[name] for name in self.names]
        dtype = maps[0].dtype
        numerics = self.resolution, self.sampling_ratio, self.aligned
        if boxes.is_cuda and HAS_TRITON:
            from chordate.ops import roi_align_gpu

            boxes = boxes.to(torch.promote_types(dtype, torch.float32))
            return roi_align_gpu.pyramid_roi_align(maps, self.strides, boxes, image, self.levels(boxes), *numerics)
        maps = [at_least_float32(x) for x in maps]
        boxes = boxes.to(maps[0].dtype)
        levels = self.levels(boxes)
        if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
            return pyramid_roi_align(maps, self.strides, boxes, image, levels.long(), *numerics).to(dtype)
        rois = torch.cat((image[:, None], boxes), dim=1)
        if len(maps) == 1:
            return self._align(maps[0], rois, self.strides[0]).to(dtype)
        # Splitting the boxes by level needs a host sync. It is faster to pool all boxes on every level, with
        # the boxes of other levels moved outside the feature map, where RoIAlign reads nothing.
        away = torch.cat((rois[:, :1], torch.full_like(boxes, FAR_AWAY)), dim=1)
        pooled = self._align(maps[0], torch.where((levels == 0)[:, None], rois, away), self.strides[0])
        for level in range(1, len(maps)):
            own = torch.where((levels == level)[:, None], rois, away)
            pooled = pooled + self._align(maps[level], own, self.strides[level])
        return pooled.to(dtype)

    def _align(self, features: Tensor, rois: Tensor, stride: int) -> Tensor:
        return roi_align(features, rois, self.resolution, 1 / stride, self.sampling_ratio, self.aligned)
