"""The two-stage detector (Faster R-CNN, Ren et al. 2015): proposals first, then a closer look at each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from chordate.contracts import InstanceHead, ProposalHead, RoIHead
from chordate.errors import ConfigError
from chordate.models.detector import Detector, Part, to_original
from chordate.ops.paste import paste_masks
from chordate.ops.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.registry import HEADS, MODELS
from chordate.structures import Batch, Detections, Skeleton


@MODELS.register_module()
class TwoStageDetector(Detector):
    """Backbone, neck, proposal head and box head, wired to one another; and heads that look at what was found.

    Args:
        rpn: proposes boxes.
        box: classifies and refines them.
        mask: draws each object's mask (Mask R-CNN, He et al. 2017), or None.
        keypoint: finds each object's keypoints (its section 5), or None.
        num_keypoints: of an object; told by the data, needed with `keypoint`.
        trunk: a map of the backbone, "c5": its stage is taken out of the backbone, and applied to each region for the
            box and the mask head together (He et al. 2016, appendix A; Mask R-CNN's C4 layout). None: each head has its
            own.

    The others as in `Detector`.
    """

    skeleton: Skeleton | None = None  # the keypoints' names and bones, set by whoever knows the data

    def __init__(
        self,
        backbone: Part,
        rpn: Part,
        box: Part,
        num_classes: int,
        num_keypoints: int | None = None,
        neck: Part | None = None,
        mask: Part | None = None,
        keypoint: Part | None = None,
        trunk: str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
        size_divisor: int = 32,
    ):
        super().__init__(backbone, neck, num_classes, mean, std, bgr, size_divisor)
        if trunk is not None:
            box = HEADS.expand(box)
            if neck is not None or "trunk" in box:
                other = "neck" if neck is not None else "box.trunk"
                raise ConfigError(f'TwoStageDetector: trunk="{trunk}" takes the place of {other}; remove one of them')
            box["trunk"] = HEADS.build("StageTrunk", stage=self.backbone.split(trunk))
        features = self.head_features
        self.rpn: ProposalHead = HEADS.build(rpn, in_features=features)
        self.box: RoIHead = HEADS.build(box, in_features=features, num_classes=num_classes)
        self.mask: InstanceHead | None = None
        if mask is not None:
            shared = {} if trunk is None else {"shared": self.box}
            self.mask = HEADS.build(mask, in_features=features, num_classes=num_classes, **shared)
        self.keypoint: InstanceHead | None = None
        if keypoint is not None:
            self.keypoint = HEADS.build(keypoint, in_features=features, num_keypoints=num_keypoints)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.targets is not None
        features = self.features(batch.images, batch.sizes)
        dense = self.rpn(features)
        losses = self.rpn.loss(dense, batch.sizes, batch.targets)
        rois = self.box.sample(self.rpn.predict(dense, batch.sizes), batch.targets)
        for head in (self.box, self.mask, self.keypoint):
            if head is not None:
                losses |= head.loss(features, rois, batch.targets)
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        features = self.features(batch.images, batch.sizes)
        detections = self.box.predict(features, self.rpn.predict(self.rpn(features), batch.sizes))
        masks = self.mask.predict(features, detections) if self.mask is not None else None
        keypoints = self.keypoint.predict(features, detections) if self.keypoint is not None else None
        scales = to_original(detections, batch.sizes, batch.infos)
        for i, (found, info) in enumerate(zip(detections, batch.infos)):
            if masks is not None:
                found.masks = paste_masks(masks[i], found.boxes, info.height, info.width)
            if keypoints is not None:
                scale = torch.cat((scales[i][:2], scales[i].new_ones(1))).to(keypoints[i].dtype)  # the score stays
                found.keypoints = keypoints[i] * scale
        return detections
