"""Panoptic-DeepLab (Cheng et al. 2020): predicts a class per pixel, and groups the pixels of things by instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, validate_settings
from chordate.contracts import FeatureSpecs, check_outputs, offered
from chordate.errors import ConfigError
from chordate.model_contracts import Model, check_batch
from chordate.models.parts import Part, parts_of, wrong_targets
from chordate.models.preprocess import Normalize
from chordate.ops.argmax_resize import argmax_resize
from chordate.ops.instance_centers import (
    Centers,
    find_centers,
    group_pixels,
    majority_classes,
    small_instance_weights,
)
from chordate.ops.panoptic_merge import Segments, add_stuff
from chordate.ops.panoptic_padded import add_padded_stuff, inside_images, unpad_segments
from chordate.pixel_contracts import CenterHead, PixelHead, WeightedPixelHead, check_center_head, check_pixel_head
from chordate.registry import BACKBONES, HEADS, MODELS, NECKS
from chordate.structures import Batch, DatasetMeta, PanopticMap, PanopticTargets


@MODELS.register_module()
class PanopticDeepLab(Model):
    """A backbone, an optional neck, a semantic head for all classes, and a head for instance centers and offsets.

    Each pixel of a thing class is assigned to the center nearest to the sum of its position and predicted offset. The
    class of an instance is the most frequent class of its pixels (section 3.2). In the semantic loss, pixels of small
    instances have a larger weight. The defaults from `center_threshold` to `small_instance_area` are those of
    Detectron2's Panoptic-DeepLab project.

    Args:
        meta: metadata of the dataset; `meta.stuff` has the names of the stuff classes.
        backbone, neck: a variant's name, a dict with `type` and the part's own arguments, or a built module. Without a
            neck, the heads read the backbone's feature maps.
        semantic: a `WeightedPixelHead`; with a `small_instance_weight` of 1, any `PixelHead`.
        center: a `CenterHead`.
        center_threshold: heatmap value that a center must exceed.
        nms_kernel: side of the max-pooling window in pixels, odd; a center is the maximum of its window.
        topk: maximum number of centers per image.
        stuff_area: minimum area of a stuff segment, in pixels of the batch; smaller stuff segments are dropped.
        small_instance_weight: weight of the pixels of small instances in the semantic loss; 1 for no weights.
        small_instance_area: instances with fewer pixels than this in the batch are small.
        preprocess: arguments of `Normalize`, `dict(mean=…, std=…, bgr=…)`; None for ImageNet's mean and std.
        size_divisor: images are padded to multiples of this many pixels.

    Raises:
        ConfigError: the parts do not fit together, or the data has no stuff or no things.
    """

    example_size = (512, 1024)
    exports_sizes = True

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        semantic: Part,
        center: Part,
        neck: Part | None = None,
        center_threshold: Fraction = 0.1,
        nms_kernel: PositiveInt = 7,
        topk: PositiveInt = 200,
        stuff_area: NonNegativeInt = 2048,
        small_instance_weight: PositiveFloat = 3.0,
        small_instance_area: NonNegativeInt = 64 * 64,
        preprocess: dict[str, Any] | None = None,
        size_divisor: PositiveInt = 16,
    ):
        super().__init__()
        if not meta.stuff or not meta.things:
            lacking = "things" if meta.stuff else "stuff"
            raise ConfigError(f"PanopticDeepLab: the data has no {lacking}; train on data with things and stuff")
        if nms_kernel % 2 == 0:
            raise ConfigError(f"PanopticDeepLab: nms_kernel must be odd, got {nms_kernel}")
        self.meta, self.size_divisor = meta, size_divisor
        self.center_threshold, self.nms_kernel, self.topk = center_threshold, nms_kernel, topk
        self.stuff_area = stuff_area
        self.small_instance_weight, self.small_instance_area = small_instance_weight, small_instance_area
        is_weighted = small_instance_weight != 1
        self.preprocess = validate_settings(Normalize, preprocess, "preprocess")
        self.backbone = BACKBONES.build(backbone)
        self.neck = None if neck is None else NECKS.build(neck, in_features=offered(self.backbone))
        check_outputs(self.backbone, in_channels=len(self.preprocess.mean), neck=self.neck)
        features = self.feature_specs()
        contract = WeightedPixelHead if is_weighted else PixelHead
        self.semantic: WeightedPixelHead = HEADS.build(
            semantic, in_features=features, facts=meta.facts(), contract=contract
        )
        check_pixel_head(self.semantic, features, len(meta.classes))
        if is_weighted:
            try:
                check_pixel_head(self.semantic, features, len(meta.classes), weighted=True)
            except ConfigError as error:
                remedy = "if the loss takes no pixel weights, set small_instance_weight=1"
                raise ConfigError(f"{error}; {remedy}") from error
        self.center: CenterHead = HEADS.build(center, in_features=features, facts=meta.facts(), contract=CenterHead)
        check_center_head(self.center, features)
        self.is_thing: Tensor
        is_thing = torch.tensor([name not in meta.stuff for name in meta.classes])
        self.register_buffer("is_thing", is_thing, persistent=False)

    def feature_specs(self) -> FeatureSpecs:
        return offered(self.backbone if self.neck is None else self.neck)

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocess(batch.images, batch.sizes))

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """The feature maps `[N, C, H, W]` that the heads read, keyed by name."""
        maps = self.backbone_features(batch)
        return maps if self.neck is None else self.neck(maps)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        targets = batch.targets
        if not isinstance(targets, PanopticTargets):
            raise wrong_targets(self, targets, PanopticTargets)
        maps = self.features(batch)
        logits = self.semantic(maps)
        if self.small_instance_weight == 1:
            losses = self.semantic.loss(logits, targets.labels)
        else:
            count = targets.instances.valid.shape[1]
            weights = small_instance_weights(targets.slots, count, self.small_instance_area, self.small_instance_weight)
            losses = self.semantic.loss(logits, targets.labels, weights)
        return losses | self.center.loss(self.center(maps), targets)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[PanopticMap]:
        check_batch(self, batch)
        maps, size = self.features(batch), (batch.images.shape[-2], batch.images.shape[-1])
        logits = self.semantic(maps)
        cells = logits.shape[-2], logits.shape[-1]
        labels = torch.stack([argmax_resize(own, size, cells) for own in logits])
        heatmap, offsets = self.center.resize(self.center(maps), size)
        inside = inside_images(batch.sizes, size)
        heatmap = torch.where(inside, heatmap, -torch.inf)  # no centers in the padding
        centers = find_centers(heatmap, self.center_threshold, self.nms_kernel, self.topk)
        predictions = []
        for segments, info, (height, width) in zip(
            self.segments(centers, offsets, labels, inside), batch.infos, batch.sizes.tolist()
        ):
            ids = segments.ids[:height, :width]
            if ids.shape != (info.height, info.width):
                ids = F.interpolate(ids[None, None].float(), (info.height, info.width), mode="nearest-exact")[0, 0]
            predictions.append(_without_empty(segments._replace(ids=ids.int())))
        return predictions

    def dense_parts(self) -> list[nn.Module]:
        return [*super().dense_parts(), *parts_of(self.semantic, self.center)]

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """The tensors that `ops/panoptic_padded.py` describes, with one slot per center and one per class."""
        size = images.shape[-2], images.shape[-1]
        maps = self.features(Batch(images, sizes, []))
        labels = F.interpolate(self.semantic(maps).float(), size, mode="bilinear").max(dim=1).indices
        heatmap, offsets = self.center.resize(self.center(maps), size)
        inside = inside_images(sizes, size)
        heatmap = torch.where(inside, heatmap, -torch.inf)
        centers = find_centers(heatmap, self.center_threshold, self.nms_kernel, self.topk)
        is_thing = self.is_thing[labels] & inside
        groups = torch.where(is_thing, group_pixels(centers, offsets), -1)
        classes, areas = majority_classes(groups, labels, centers.scores.shape[1], len(self.is_thing))
        things = torch.where(areas > 0, classes, -1)
        scores = torch.where(areas > 0, centers.scores.clamp(0, 1), 0.0)
        stuff = torch.where(is_thing | ~inside, -1, labels)
        return add_padded_stuff((groups + 1).int(), things, scores, stuff, len(self.is_thing), self.stuff_area)

    def from_tensors(self, tensors: Mapping[str, Tensor], batch: Batch) -> list[PanopticMap]:
        return unpad_segments(tensors, batch)

    def segments(self, centers: Centers, offsets: Tensor, labels: Tensor, inside: Tensor) -> list[Segments]:
        """Group the pixels of each image into segments, at the size of the padded batch.

        Args:
            centers: the centers in each image.
            offsets: `[N, 2, H, W]` (y, x), offset in pixels from each pixel to its center.
            labels: `[N, H, W]`, the class of each pixel.
            inside: `[N, H, W]` bool, False in the padding, which gets no segment.
        """
        is_thing = self.is_thing[labels.long()] & inside
        groups = torch.where(is_thing, group_pixels(centers, offsets), -1)
        count = centers.scores.shape[1]
        classes, areas = majority_classes(groups, labels, count, len(self.is_thing))
        kept = areas > 0
        numbers = torch.where(kept, kept.cumsum(1), 0)
        # Pixels without a group (-1) index the appended last entry, 0.
        numbers = torch.cat([numbers, numbers.new_zeros(len(numbers), 1)], dim=1)
        results = []
        for image, keep in enumerate(kept):
            ids = numbers[image][groups[image]].int()
            scores = centers.scores[image][keep].clamp(0, 1)
            things = Segments(
                ids, classes[image][keep], torch.ones_like(scores, dtype=torch.bool), scores, areas[image]
            )
            stuff = torch.where(is_thing[image] | ~inside[image], -1, labels[image])
            results.append(add_stuff(things, stuff, self.stuff_area))
        return results


def _without_empty(segments: Segments) -> PanopticMap:
    """Drop the segments that lost all their pixels when the map was resized."""
    areas = segments.ids.flatten().bincount(minlength=len(segments.labels) + 1)[1:]
    return PanopticMap(segments.ids, segments.labels, segments.is_thing, segments.scores, areas).select(areas > 0)
