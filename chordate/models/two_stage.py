"""Two-stage detector (Faster R-CNN, Ren et al. 2015): predicts proposals, then detections, masks, keypoints, stuff."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from chordate.arguments import PositiveInt, validate_settings
from chordate.errors import ConfigError, TrainingError
from chordate.head_contracts import InstanceHead, ProposalHead, RegionHead, RoIHead
from chordate.model_contracts import check_batch
from chordate.models.detector import Detector
from chordate.models.detector_tta import DetectorTTA, average_maps, merge_detections
from chordate.models.panoptic_merger import MergeSettings, PanopticMerger, name_class_rows
from chordate.models.parts import Part, not_exported, padded, parts_of, wrong_targets
from chordate.ops.heatmaps import heatmaps_to_keypoints, keypoints_in_window
from chordate.ops.padded_index import PaddedIndex, cat_boxes
from chordate.ops.panoptic_padded import unpad_segments
from chordate.ops.paste import paste_masks
from chordate.pixel_contracts import PixelHead, check_pixel_head
from chordate.registry import HEADS, MODELS
from chordate.structures import (
    Batch,
    DatasetMeta,
    Detections,
    InstanceTargets,
    PaddedDetections,
    PanopticMap,
    PanopticTargets,
)

Maps = list[Tensor] | None  # masks or heatmaps `[D, …, S, S]`, one tensor per image; None if the model has no such head


@MODELS.register_module()
class TwoStageDetector(Detector):
    """Two-stage detector: backbone, neck, proposal head, box head, and optional heads for masks, keypoints and stuff.

    Args:
        rpn: a `ProposalHead`, such as `RPNHead`.
        box: an `RoIHead` that classifies and refines the proposals.
        mask: an `InstanceHead` that predicts masks (Mask R-CNN, He et al. 2017), or None.
        keypoint: an `InstanceHead` that predicts keypoint heatmaps (He et al. 2017, section 5), or None.
        trunk: name of the backbone's last feature map, such as "c5". The stage that outputs it is moved from the
            backbone to a trunk that the box head and the mask head share (He et al. 2016, appendix A; Mask R-CNN's C4
            layout). None for separate trunks.
        semantic: a `PixelHead` for stuff, on data with things and stuff (Panoptic FPN, Kirillov et al. 2019); the model
            then predicts `PanopticMap`s. None for a detector.
        merge: arguments of `MergeSettings`, `dict(stuff_area=4096)`, for a model with a semantic head.

    The other arguments are as in `Detector`.

    Raises:
        ConfigError: two parts do not fit together, or the dataset lacks what a head needs: keypoint names, or both
            things and stuff.
    """

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        rpn: Part,
        box: Part,
        neck: Part | None = None,
        mask: Part | None = None,
        keypoint: Part | None = None,
        trunk: str | None = None,
        preprocess: dict[str, Any] | None = None,
        size_divisor: PositiveInt = 32,
        tta: dict[str, Any] | None = None,
        semantic: Part | None = None,
        merge: dict[str, Any] | None = None,
    ):
        super().__init__(meta, backbone, neck, preprocess, size_divisor, tta)
        shared: dict[str, int] = {}
        if trunk is not None:
            box = HEADS.expand(box)
            if neck is not None or "trunk" in box:
                other = "neck" if neck is not None else "box.trunk"
                raise ConfigError(f'TwoStageDetector: trunk="{trunk}" cannot be combined with {other}; remove one')
            box["trunk"] = HEADS.build("StageTrunk", stage=self.backbone.pop_stage(trunk))
            shared["roi_channels"] = box["trunk"].out_channels
        self.shares_trunk = trunk is not None
        self.merger: PanopticMerger | None = None
        if semantic is not None:
            if mask is None or keypoint is not None or tta is not None:
                reason = "needs a mask head" if mask is None else "cannot be combined with keypoint or tta"
                raise ConfigError(f"TwoStageDetector: semantic {reason}")
            self.merger = PanopticMerger(meta, validate_settings(MergeSettings, merge, "merge"))
        features, facts = self.head_features, (self.merger.thing_meta if self.merger else meta).facts()
        self.rpn: ProposalHead = HEADS.build(rpn, facts=facts, contract=ProposalHead, in_features=features)
        region = RoIHead if trunk is None else RegionHead
        self.box: Any = HEADS.build(box, facts=facts, contract=region, in_features=features)
        self.mask: InstanceHead | None = None
        if mask is not None:
            self.mask = HEADS.build(mask, facts=facts, contract=InstanceHead, in_features=features, **shared)
        self.keypoint: InstanceHead | None = None
        if keypoint is not None:
            if "num_keypoints" not in facts:
                raise ConfigError(
                    "TwoStageDetector has a keypoint head, but the dataset has no keypoint names; train on data with "
                    'keypoints=True, or set fallback_meta.skeleton to a list of names, or to "coco"'
                )
            self.keypoint = HEADS.build(keypoint, facts=facts, contract=InstanceHead, in_features=features)
        self.semantic: Any = None
        if self.merger is not None:
            facts = self.merger.semantic_meta.facts()
            self.semantic = HEADS.build(semantic, facts=facts, contract=PixelHead, in_features=features)
            check_pixel_head(self.semantic, features, len(self.merger.semantic_meta.classes))
            name_class_rows([self.box, self.mask], "things")
            name_class_rows([self.semantic], "things and stuff")

    @property
    def detections_per_image(self) -> int | None:
        return self.box.detections_per_image if self.merger is None else None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        targets = batch.targets
        wanted = InstanceTargets if self.merger is None else PanopticTargets
        if not isinstance(targets, wanted):
            raise wrong_targets(self, targets, wanted)
        if self.merger is not None:
            targets = self.merger.thing_targets(batch.targets.instances)
        features = self.features(batch.images, batch.sizes)
        outputs = self.rpn(features)
        parts = [self.rpn.loss(outputs, batch.sizes, targets)]
        rois = self.box.sample(self.rpn.predict(outputs, batch.sizes, training=True), targets)
        shared: dict[str, Any] = {}
        if self.shares_trunk:
            index = PaddedIndex(rois.valid)
            shared["roi_features"] = self.box.roi_features(features, index.flatten(rois.boxes), index.image)
        parts.append(self.box.loss(features, rois, targets, **shared))
        if self.mask is not None:
            parts.append(self.mask.loss(features, rois, targets, **shared))
        if self.keypoint is not None:
            parts.append(self.keypoint.loss(features, rois, targets))
        if self.merger is not None:
            labels = self.merger.semantic_labels(batch.targets.labels)
            parts.append(self.semantic.loss(self.semantic(features), labels))
        losses: dict[str, Tensor] = {}
        for part in parts:
            if clash := losses.keys() & part.keys():
                raise TrainingError(f'TwoStageDetector: two heads have a loss named "{min(clash)}"; rename one of them')
            losses |= part
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections] | list[PanopticMap]:
        check_batch(self, batch)
        if self.tta is not None:
            detections, masks, heatmaps = self._detect_augmented(self.tta, batch)
        else:
            features = self.features(batch.images, batch.sizes)
            detections = self._detect(features, batch.sizes)
            masks, heatmaps = self._instance_maps(features, detections)
        predictions = []
        for i, (prediction, info, size) in enumerate(zip(detections, batch.infos, batch.sizes)):
            if heatmaps is not None:
                prediction = replace(prediction, keypoints=heatmaps_to_keypoints(heatmaps[i], prediction.boxes))
            prediction = prediction.to_original(info, size)
            if masks is not None:
                prediction = replace(prediction, masks=paste_masks(masks[i], prediction.boxes, info.height, info.width))
            predictions.append(prediction)
        if self.merger is not None:
            return self.merger.merge(predictions, self.semantic(features), batch)
        return predictions

    def dense_parts(self) -> list[nn.Module]:
        return [*super().dense_parts(), *parts_of(self.rpn, self.semantic)]

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """The tensors of `PaddedDetections`, and the tensors of the optional heads that the model has:

        - `masks` `[N, D, M, M]`: the probability of the mask in each cell of an M × M grid over the box;
        - `keypoints` `[N, D, K, 3]`: x and y in pixels of the padded batch, and score (a logit).

        A panoptic model returns the tensors of `PanopticMerger.merge_padded` instead.
        """
        if self.tta is not None:
            raise not_exported(self, "tta")
        features = self.features(images, sizes)
        proposals = self.rpn.predict(self.rpn(features), sizes)
        detections: PaddedDetections = padded(self.box).predict_padded(features, proposals)
        tensors = dict(vars(detections))
        if self.mask is not None:
            shared = {}
            if self.shares_trunk:
                shared["roi_features"] = self.box.roi_features(features, *detections.rows()[:2])
            tensors["masks"] = padded(self.mask).predict_padded(features, detections, **shared)
        if self.keypoint is not None:
            heatmaps = padded(self.keypoint).predict_padded(features, detections)
            tensors["keypoints"] = keypoints_in_window(heatmaps, detections.boxes)
        if self.merger is not None:
            size = images.shape[-2], images.shape[-1]
            return self.merger.merge_padded(detections, tensors["masks"], self.semantic(features), sizes, size)
        return tensors

    def from_tensors(self, tensors: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        if self.merger is not None:
            return unpad_segments(tensors, batch)
        return super().from_tensors(tensors, batch)

    def _detect(self, features: dict[str, Tensor], sizes: Tensor) -> list[Detections]:
        """Predict detections, with boxes in pixels of the padded images."""
        detections = self.box.predict(features, self.rpn.predict(self.rpn(features), sizes))
        return detections if self.merger is None else self.merger.confident(detections)

    def _instance_maps(self, features: dict[str, Tensor], detections: Sequence[Detections]) -> tuple[Maps, Maps]:
        """Predict masks and keypoint heatmaps of detections, whose boxes are in pixels of the padded images."""
        masks, heatmaps, shared = None, None, {}
        if self.mask is not None:
            if self.shares_trunk:
                shared["roi_features"] = self.box.roi_features(features, *cat_boxes(detections))
            masks = self.mask.predict(features, detections, **shared)
        if self.keypoint is not None:
            heatmaps = self.keypoint.predict(features, detections)
        return masks, heatmaps

    def _detect_augmented(self, tta: DetectorTTA, batch: Batch) -> tuple[list[Detections], Maps, Maps]:
        """Predict on all augmented batches; returns merged detections (in pixels of `batch`), mean masks and heatmaps.

        Raises:
            ConfigError: `tta.flip` is true, but the names of the keypoints are unknown.
        """
        mirrored = None
        if self.keypoint is not None and tta.flip:
            if self.meta.skeleton is None:
                raise ConfigError(
                    "model.tta.flip: the keypoints' names must be known to swap left and right; set the dataset's "
                    "DatasetMeta.skeleton, or flip=False"
                )
            mirrored = self.meta.skeleton.mirrored
        augmented = tta.augment(batch, self.size_divisor)
        features = [self.features(one.images, one.sizes) for one in augmented]
        each = [one.inverse_boxes(self._detect(maps, one.sizes)) for one, maps in zip(augmented, features)]
        detections = merge_detections(each, self.box.nms_threshold, self.box.detections_per_image)
        maps = [self._instance_maps(maps, one.transform_boxes(detections)) for one, maps in zip(augmented, features)]
        masks, heatmaps = zip(*maps)
        return (
            detections,
            None if self.mask is None else average_maps(masks, augmented),
            None if self.keypoint is None else average_maps(heatmaps, augmented, mirrored),
        )
