"""Formats of Detectron2's detectors: R-CNNs on FPN, C4 and a dilated C5, Panoptic FPN, and RetinaNet."""

from __future__ import annotations

from typing import Any

from torch import nn

from chordate.data.coco_classes import COCO_CLASSES, COCO_SKELETON, COCO_STUFF
from chordate.errors import CheckpointError
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats import detectron2_names as names
from chordate.weights.formats.detectron2_configs import Overrides, backbone_overrides, heads_overrides
from chordate.weights.formats.detectron2_settings import PIXELS, image_settings, region_settings
from chordate.weights.formats.format import Format, State
from chordate.weights.formats.name_table import NameTable

FPN_DIVISOR = 32  # stride of res5, to which images are padded with an FPN; without an FPN, they are not padded


class Detectron2Format(Format):
    """Base class of formats of Detectron2's models with a ResNet."""

    library = "detectron2"
    wrapper = "model"

    def names(self, state: State, ours: bool) -> NameTable:
        """The table of names for the model with these tensors.

        Args:
            ours: whether `state` has our names; otherwise, it has Detectron2's.
        """
        raise NotImplementedError

    def resnet(self, state: State) -> str:
        """The prefix of the names of the ResNet's tensors; `state` has Detectron2's names."""
        prefixes = ("backbone.bottom_up.", "backbone.")
        return next((prefix for prefix in prefixes if f"{prefix}stem.conv1.weight" in state), prefixes[-1])

    def convert(self, state: State, model: Any) -> State:
        # The anchors and the mean and std of old files are settings of the model, not tensors.
        tensors = {name: x for name, x in state.items() if name not in PIXELS and "cell_anchors" not in name}
        return self.names(state, ours=False).convert(tensors)

    def restore(self, state: State, model: Any) -> State:
        theirs = self.names(state, ours=True).restore(state)
        if len(theirs) < len(state) or not self.recognizes(theirs):
            return super().restore(state, model)  # raises the error
        return theirs

    def settings(self, state: State) -> dict[str, Any]:
        return image_settings(state, self.resnet(state))


@FORMATS.register_module()
class Detectron2RCNN(Detectron2Format):
    """Faster, Mask, Keypoint and Cascade R-CNN, and Panoptic FPN, on a ResNet with FPN, C4 or a dilated C5."""

    def recognizes(self, state: State) -> bool:
        return "proposal_generator.rpn_head.objectness_logits.weight" in state and any(
            name.startswith("roi_heads.box_predictor.") for name in state
        )

    def names(self, state: State, ours: bool) -> NameTable:
        has_fpn = any(name.startswith("neck." if ours else "backbone.fpn_") for name in state)
        several_convs = ("rpn.convs.1.weight" if ours else "proposal_generator.rpn_head.conv.conv0.weight") in state
        return NameTable(
            *names.FPN,
            *names.resnet("backbone.bottom_up." if has_fpn else "backbone.", "backbone."),
            *names.RPN,
            *(names.RPN_CONVS if several_convs else names.RPN_CONV),
            *names.stage("roi_heads.", "box.trunk.stage.", 4),
            *names.BOX,
            *names.CASCADE,
            *names.MASK,
            *names.KEYPOINT,
            *names.semantic_fpn("semantic."),
        )

    def settings(self, state: State) -> dict[str, Any]:
        has_fpn = "backbone.fpn_output2.weight" in state
        shares_trunk = "roi_heads.res5.0.conv1.weight" in state
        heads = [] if _is_cascade(state) else ["box"]
        if "roi_heads.mask_head.predictor.weight" in state and not shares_trunk:
            heads.append("mask")
        if "roi_heads.keypoint_head.score_lowres.weight" in state:
            heads.append("keypoint")
        return {
            **super().settings(state),
            "size_divisor": FPN_DIVISOR if has_fpn else 1,
            **region_settings(heads),
        }

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        count, keypoints = _classes(state), state.get("roi_heads.keypoint_head.score_lowres.bias")
        if keypoints is not None:
            is_person = count == 1 and len(keypoints) == len(COCO_SKELETON.names)
            return DatasetMeta(("person",), COCO_SKELETON) if is_person else None
        stuff = state.get("sem_seg_head.predictor.bias")
        if count != len(COCO_CLASSES) or (stuff is not None and len(stuff) != 1 + len(COCO_STUFF)):
            return None
        return DatasetMeta(COCO_CLASSES) if stuff is None else DatasetMeta(COCO_CLASSES + COCO_STUFF, stuff=COCO_STUFF)

    def config(self, state: State) -> tuple[str, Overrides] | None:
        if "roi_heads.res5.0.conv1.weight" in state:
            neck = "c4"
        else:
            neck = "fpn" if "backbone.fpn_output2.weight" in state else "dc5"
        family = "mask-rcnn" if "roi_heads.mask_head.predictor.weight" in state else "faster-rcnn"
        if _is_cascade(state):
            family = "cascade-mask-rcnn" if family == "mask-rcnn" else "cascade-rcnn"
        if "roi_heads.keypoint_head.score_lowres.weight" in state:
            family = "keypoint-rcnn"
        if "sem_seg_head.predictor.weight" in state:
            family = "panoptic-fpn"
        backbone, overrides = backbone_overrides(state, self.resnet(state))
        overrides |= heads_overrides(state)
        if self.meta(state, nn.Identity()) is None:
            if family in ("keypoint-rcnn", "panoptic-fpn"):
                return None  # the names of keypoints and of stuff are not in the weights
            overrides["fallback_meta.classes"] = _classes(state)
        return f"{family}_{backbone}_{neck}_1x_coco", overrides


@FORMATS.register_module()
class Detectron2RetinaNet(Detectron2Format):
    """RetinaNet. Detectron2 orders the anchors of a cell as we do: by size, then by ratio."""

    def recognizes(self, state: State) -> bool:
        return {"backbone.fpn_output3.weight", "head.cls_subnet.0.weight", "head.cls_score.weight"} <= state.keys()

    def names(self, state: State, ours: bool) -> NameTable:
        return NameTable(*names.FPN, *names.resnet("backbone.bottom_up.", "backbone."), *names.RETINA)

    def settings(self, state: State) -> dict[str, Any]:
        return {
            **super().settings(state),
            "size_divisor": FPN_DIVISOR,
            "head.anchors.rounded": False,
            "head.anchors.stride_from_grid": False,
            "head.clip_before_nms": False,
        }

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        return DatasetMeta(COCO_CLASSES) if self._classes(state) == len(COCO_CLASSES) else None

    def config(self, state: State) -> tuple[str, Overrides] | None:
        backbone, overrides = backbone_overrides(state, self.resnet(state))
        overrides |= heads_overrides(state)
        overrides["model.neck.extra"] = "c5" if state["backbone.top_block.p6.weight"].shape[1] == 2048 else "p5"
        if self._classes(state) != len(COCO_CLASSES):
            overrides["fallback_meta.classes"] = self._classes(state)
        return f"retinanet_{backbone}_fpn_1x_coco", overrides

    def _classes(self, state: State) -> int:
        return 4 * len(state["head.cls_score.bias"]) // len(state["head.bbox_pred.bias"])


def _is_cascade(state: State) -> bool:
    return "roi_heads.box_predictor.0.cls_score.weight" in state


def _classes(state: State) -> int:
    """The number of classes of an R-CNN, without background."""
    stage = "0." if _is_cascade(state) else ""
    name = f"roi_heads.box_predictor.{stage}cls_score.bias"
    if name not in state:
        raise CheckpointError(f"Detectron2's model has no {name}")
    return len(state[name]) - 1
