"""PoseEstimator: a backbone, and a head that predicts one heatmap per keypoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chordate.arguments import Fraction, validate_settings
from chordate.contracts import check_outputs, offered
from chordate.errors import ConfigError
from chordate.model_contracts import TopDownModel, check_batch
from chordate.models.parts import Part, parts_of, wrong_targets
from chordate.models.preprocess import Normalize
from chordate.ops.gaussian_heatmaps import shift_right
from chordate.pixel_contracts import HeatmapHead, check_heatmap_head
from chordate.registry import BACKBONES, HEADS, MODELS
from chordate.structures import Batch, DatasetMeta, ImageInfo
from chordate.structures.pose import CropInfo, Poses, PoseTargets


@MODELS.register_module()
class PoseEstimator(TopDownModel):
    """Top-down pose estimation: one object per image of the batch (Xiao et al. 2018).

    The images of a batch are crops of one object each (`TopDownCrop`). An image that is not a crop is treated
    as the crop of an object that fills it.

    Args:
        meta: metadata of the dataset, with a skeleton.
        backbone, head: a variant's name, a dict with `type` and the part's own arguments, or a built module; the head
            is a `HeatmapHead`.
        preprocess: arguments of `Normalize`, `dict(mean=…, std=…, bgr=…)`; None for ImageNet's mean and std.
        flip_test: whether to average the heatmaps with the heatmaps of the horizontally flipped image.
        flip_shift: whether to shift the heatmaps of the flipped image one cell to the right before averaging; needed if
            the head has `aligned=False`.
        min_confidence: the score of a pose is the score of its box times the mean confidence of the keypoints whose
            confidence is above this value (0.2 in the authors' code), or 0 if there are no such keypoints.

    Raises:
        ConfigError: two parts do not fit together, or the metadata has no skeleton or no classes.
    """

    example_size = (256, 192)
    mirrored: Tensor  # [K] int64, index of each keypoint's left/right partner, for flipping

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        head: Part,
        preprocess: dict[str, Any] | None = None,
        flip_test: bool = True,
        flip_shift: bool = False,
        min_confidence: Fraction = 0.2,
    ):
        super().__init__()
        if meta.skeleton is None or not meta.classes:
            raise ConfigError(
                "PoseEstimator needs keypoints and classes, from the dataset or from fallback_meta.skeleton and "
                "fallback_meta.classes"
            )
        self.meta, self.flip_test, self.flip_shift = meta, flip_test, flip_shift
        self.min_confidence = min_confidence
        self.preprocess = validate_settings(Normalize, preprocess, "preprocess")
        self.backbone = BACKBONES.build(backbone)
        check_outputs(self.backbone, in_channels=len(self.preprocess.mean))
        specs = offered(self.backbone)
        self.size_divisor = list(specs.values())[-1].stride
        self.head: HeatmapHead = HEADS.build(head, in_features=specs, facts=meta.facts(), contract=HeatmapHead)
        check_heatmap_head(self.head, specs, len(meta.skeleton.mirrored))
        self.register_buffer("mirrored", torch.tensor(meta.skeleton.mirrored), persistent=False)

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocess(batch.images, batch.sizes))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if not isinstance(batch.targets, PoseTargets):
            raise wrong_targets(self, batch.targets, PoseTargets)
        return self.head.loss(self.head(self.backbone_features(batch)), batch.targets.keypoints)

    def heatmaps(self, images: Tensor) -> Tensor:
        """Heatmaps `[N, num_keypoints, h, w]` of normalized images; with `flip_test`, averaged with the heatmaps of the
        flipped images."""
        heatmaps = self.head(self.backbone(images))
        if not self.flip_test:
            return heatmaps
        flipped = self.head(self.backbone(images.flip(-1))).flip(-1)[:, self.mirrored]
        return (heatmaps + (shift_right(flipped) if self.flip_shift else flipped)) / 2

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Poses]:
        """Predict one pose per image of the batch, in pixels of the original image."""
        check_batch(self, batch)
        return self._poses(self.head.decode(self.heatmaps(self.preprocess(batch.images, batch.sizes))), batch)

    def _poses(self, keypoints: Tensor, batch: Batch) -> list[Poses]:
        """The poses in pixels of the original images, from keypoints `[N, K, 3]` in pixels of the batch."""
        crops = crop_infos(batch.infos, batch.sizes)
        matrix, boxes, scores = (
            torch.tensor(values, dtype=keypoints.dtype, device=keypoints.device)
            for values in ([c.matrix for c in crops], [[c.box] for c in crops], [c.score for c in crops])
        )
        labels = torch.tensor([[crop.label] for crop in crops], device=keypoints.device)
        confidence = keypoints[..., 2].clamp(0, 1)
        certain = confidence > self.min_confidence
        scores = scores * torch.where(certain, confidence, 0.0).sum(1) / certain.sum(1).clamp(min=1)
        points = keypoints[..., :2] @ matrix[:, :, :2].mT + matrix[:, None, :, 2]
        keypoints = torch.cat((points, confidence[..., None]), -1)[:, None]
        return [Poses(*one) for one in zip(boxes, scores[:, None], labels, [None] * len(crops), keypoints)]

    def dense_parts(self) -> list[nn.Module]:
        return [*super().dense_parts(), *parts_of(self.head)]

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """`keypoints` `[N, K, 3]`: x and y in pixels of the crop, and confidence 0 … 1."""
        keypoints = self.head.decode(self.heatmaps(self.preprocess(images, sizes)))
        return {"keypoints": torch.cat((keypoints[..., :2], keypoints[..., 2:].clamp(0, 1)), -1)}

    def from_tensors(self, tensors: Mapping[str, Tensor], batch: Batch) -> list[Poses]:
        return self._poses(tensors["keypoints"], batch)

    def merge_crops(self, predictions: Sequence[Poses]) -> Poses:
        """The poses of all crops, highest score first."""
        device, count = self.mirrored.device, len(self.mirrored)
        none = Poses(
            torch.zeros(0, 4, device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
            None,
            torch.zeros(0, count, 3, device=device),
        )
        boxes, scores, labels, keypoints = (
            torch.cat([getattr(one, name) for one in (none, *predictions)])
            for name in ("boxes", "scores", "labels", "keypoints")
        )
        return Poses(boxes, scores, labels, None, keypoints)[scores.argsort(descending=True, stable=True)]


def crop_infos(infos: Sequence[ImageInfo], sizes: Tensor) -> list[CropInfo]:
    """The CropInfo of each image of a batch. An image that is not a crop is treated as the crop of one object."""
    if all(isinstance(info, CropInfo) for info in infos):
        return list(infos)  # type: ignore[arg-type]
    return [CropInfo.whole(info, size) for info, size in zip(infos, sizes.tolist())]
