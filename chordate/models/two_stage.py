"""The two-stage detector (Faster R-CNN, Ren et al. 2015): proposals first, then a closer look at each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chordate.contracts import InstanceHead, ProposalHead, RoIHead
from chordate.errors import ConfigError
from chordate.models.detector import Detector, Part, instance_targets, to_original
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.models.tta import Look, averaged, merged
from chordate.ops.heatmaps import heatmap_peaks
from chordate.ops.paste import paste_masks
from chordate.registry import HEADS, MODELS
from chordate.structures import Batch, DatasetMeta, Detections


@MODELS.register_module()
class TwoStageDetector(Detector):
    """Backbone, neck, proposal head and box head, wired to one another; and heads that look at what was found.

    Args:
        rpn: proposes boxes.
        box: classifies and refines them.
        mask: draws each object's mask (Mask R-CNN, He et al. 2017), or None.
        keypoint: finds each object's keypoints (its section 5), or None.
        trunk: a map of the backbone, "c5": its stage is taken out of the backbone, and applied to each region for the
            box and the mask head together (He et al. 2016, appendix A; Mask R-CNN's C4 layout). None: each head has its
            own.

    The others as in `Detector`.
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
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
        size_divisor: int = 32,
        tta: Mapping[str, Any] | None = None,
    ):
        super().__init__(meta, backbone, neck, mean, std, bgr, size_divisor, tta)
        if trunk is not None:
            box = HEADS.expand(box)
            if neck is not None or "trunk" in box:
                other = "neck" if neck is not None else "box.trunk"
                raise ConfigError(f'TwoStageDetector: trunk="{trunk}" takes the place of {other}; remove one of them')
            box["trunk"] = HEADS.build("StageTrunk", stage=self.backbone.pop_stage(trunk))
        features, facts = self.head_features, meta.facts()
        self.rpn: ProposalHead = HEADS.build(rpn, facts=facts, in_features=features)
        self.box: RoIHead = HEADS.build(box, facts=facts, in_features=features)
        self.mask: InstanceHead | None = None
        if mask is not None:
            shared = {} if trunk is None else {"shared": self.box}
            self.mask = HEADS.build(mask, facts=facts, in_features=features, **shared)
        self.keypoint: InstanceHead | None = None
        if keypoint is not None:
            self.keypoint = HEADS.build(keypoint, facts=facts, in_features=features)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        targets = instance_targets(batch)
        features = self.features(batch.images, batch.sizes)
        dense = self.rpn(features)
        losses = self.rpn.loss(dense, batch.sizes, targets)
        rois = self.box.sample(self.rpn.predict(dense, batch.sizes), targets)
        for head in (self.box, self.mask, self.keypoint):
            if head is not None:
                losses |= head.loss(features, rois, targets)
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        looks = [view.of(batch) for view in self.views]
        features = [self.features(look.images, look.sizes) for look in looks]
        of_views = []
        for look, maps in zip(looks, features):
            proposals = self.rpn.predict(self.rpn(maps), look.sizes)
            of_views.append(look.back(self.box.predict(maps, proposals)))
        detections = merged(of_views, self.box)
        masks, keypoints = None, None
        if self.mask is not None:
            masks = self._look_closer(self.mask, looks, features, detections)
        if self.keypoint is not None:
            heatmaps = self._look_closer(self.keypoint, looks, features, detections, self._mirrored())
            keypoints = [heatmap_peaks(maps, found.boxes) for maps, found in zip(heatmaps, detections)]
        scales = to_original(detections, batch.sizes, batch.infos)
        for i, (found, info) in enumerate(zip(detections, batch.infos)):
            if masks is not None:
                found.masks = paste_masks(masks[i], found.boxes, info.height, info.width)
            if keypoints is not None:
                scale = torch.cat((scales[i][:2], scales[i].new_ones(1))).to(keypoints[i].dtype)  # the score stays
                found.keypoints = keypoints[i] * scale
        return detections

    def _look_closer(
        self,
        head: InstanceHead,
        looks: Sequence[Look],
        features: Sequence[dict[str, Tensor]],
        detections: Sequence[Detections],
        mirrored: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """What a head says of each image's detections, `[D, …, S, S]` over their boxes, averaged over the views."""
        maps = [head.predict(of_view, look.there(detections)) for look, of_view in zip(looks, features)]
        return averaged(maps, looks, mirrored)

    def _mirrored(self) -> tuple[int, ...] | None:
        """The keypoint that each becomes in a mirror, if a view is one."""
        if not any(view.flip for view in self.views):
            return None
        if self.meta.skeleton is None:
            raise ConfigError("model.tta.flip: the keypoints' names must be known, to exchange left and right")
        return self.meta.skeleton.mirrored
