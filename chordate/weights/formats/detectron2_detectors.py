"""Formats of Detectron2's detectors: R-CNNs (on FPN, C4 or a dilated C5), Panoptic FPN and RetinaNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from chordate.data.coco_classes import COCO_SKELETON
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats import detectron2_names as names
from chordate.weights.formats.architecture import Overrides, coco_meta, detector, num_classes
from chordate.weights.formats.detectron2_settings import (
    PIXELS,
    config_options,
    image_guesses,
    image_settings,
    region_settings,
)
from chordate.weights.formats.format import Format, State
from chordate.weights.formats.name_table import NameTable

FPN_DIVISOR = 32  # stride of res5; models with an FPN pad images to multiples of it, models without an FPN do not pad


class Detectron2Format(Format):
    """Base class of formats of Detectron2's models with a ResNet."""

    library = "detectron2"
    wrapper = "model"

    def names(self, state: State, ours: bool) -> NameTable:
        """The NameTable of the model with these tensors.

        Args:
            ours: whether `state` has our names; otherwise, it has Detectron2's.
        """
        raise NotImplementedError

    def resnet(self, state: State) -> str:
        """The prefix of the names of the ResNet's tensors; `state` has Detectron2's names."""
        prefixes = ("backbone.bottom_up.", "backbone.")
        return next((prefix for prefix in prefixes if f"{prefix}stem.conv1.weight" in state), prefixes[-1])

    def convert(self, state: State, model: Any) -> State:
        # Old files save the anchors, mean and std as tensors; in our models, they are settings.
        tensors = {name: x for name, x in state.items() if name not in PIXELS and "cell_anchors" not in name}
        return self.names(state, ours=False).convert(tensors)

    def restore(self, state: State, model: Any) -> State:
        theirs = self.names(state, ours=True).restore(state)
        if len(theirs) < len(state) or not self.recognizes(theirs):
            return super().restore(state, model)  # raises the error
        return theirs

    def checkpoint(self, state: State, model: Any) -> dict[str, Any]:
        """See `Format.checkpoint`. Adds mean and std, as in old files: `settings` reads them, Detectron2 does not."""
        normalize = (model.preprocess.mean, model.preprocess.std)
        pixels = {name: x.detach().cpu().reshape(-1, 1, 1) for name, x in zip(PIXELS, normalize)}
        return super().checkpoint({**state, **pixels}, model)

    def settings(self, state: State) -> dict[str, Any]:
        return image_settings(state, self.resnet(state))

    def options(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return config_options(settings)

    def guesses(self, state: State) -> str:
        return image_guesses(state)

    def config(self, state: State) -> tuple[str, Overrides] | None:
        return detector(self.convert(state, None), self.meta(state, nn.Identity()))


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
        heads = ["box.stage" if "roi_heads.box_predictor.0.cls_score.weight" in state else "box"]
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
        ours, keypoints = self.convert(state, None), state.get("roi_heads.keypoint_head.score_lowres.bias")
        if keypoints is not None:
            is_person = num_classes(ours) == 1 and len(keypoints) == len(COCO_SKELETON.names)
            return DatasetMeta(("person",), COCO_SKELETON) if is_person else None
        return coco_meta(ours)


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
            "neck.extra_relu": True,
        }

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        return coco_meta(self.convert(state, None))
