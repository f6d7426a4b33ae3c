"""Formats of MMDetection 2 and 3: Faster, Mask and Cascade R-CNN, and RetinaNet, on a ResNet with FPN."""

from __future__ import annotations

from typing import Any

from chordate.registry import FORMATS
from chordate.weights.formats.detectron2_detectors import Detectron2RCNN, Detectron2RetinaNet
from chordate.weights.formats.detectron2_settings import region_settings
from chordate.weights.formats.format import State
from chordate.weights.formats.name_table import NameTable
from chordate.weights.formats.openmmlab import MMFormat, Pairs, backbone, conv_module, count, fpn
from chordate.weights.formats.torchvision_detectors import by_ratio, by_size

SIZE_DIVISOR = 32  # pad_size_divisor of the data preprocessor
# 1 / target_stds of the box coders of its Cascade R-CNN; the paper's third stage has 30 and 15.
CASCADE_WEIGHTS = tuple(
    tuple(1 / std for std in (center, center, size, size)) for center, size in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
)


def box_head(theirs: str, ours: str) -> Pairs:
    """Names of a box head: shared convolutions, shared fully connected layers, and the predictors."""
    return (
        *conv_module(f"{theirs}shared_convs.#.", f"{ours}trunk.convs.#."),
        (f"{theirs}shared_fcs.#.", f"{ours}trunk.fcs.#."),
        (f"{theirs}fc_cls.", f"{ours}cls_score."),
        (f"{theirs}fc_reg.", f"{ours}bbox_pred."),
    )


RCNN: Pairs = (
    ("rpn_head.rpn_conv.#.conv.", "rpn.convs.#."),
    ("rpn_head.rpn_conv.", "rpn.convs.0."),
    ("rpn_head.rpn_cls.", "rpn.objectness_logits."),
    ("rpn_head.rpn_reg.", "rpn.anchor_deltas."),
    *box_head("roi_head.bbox_head.#.", "box.stages.#."),
    *box_head("roi_head.bbox_head.", "box."),
    *conv_module("roi_head.mask_head.convs.#.", "mask.convs.#."),
    ("roi_head.mask_head.upsample.", "mask.upsample."),
    ("roi_head.mask_head.conv_logits.", "mask.masks."),
)
RETINA: Pairs = (
    *conv_module("bbox_head.cls_convs.#.", "head.class_tower.#."),
    *conv_module("bbox_head.reg_convs.#.", "head.box_tower.#."),
    ("bbox_head.retina_cls.", "head.cls_score."),
    ("bbox_head.retina_reg.", "head.bbox_pred."),
)


class MMDetection(MMFormat):
    """Base class of the formats of MMDetection's detectors."""

    library = "mmdetection"
    heads: Pairs

    def names(self, state: State) -> NameTable:
        levels = count(state, "neck.lateral_convs.{}.conv.weight")
        levels = levels or sum(f"neck.lateral.c{number}.0.weight" in state for number in range(2, 6))
        outputs = count(state, "neck.fpn_convs.{}.conv.weight") or levels + 2
        return NameTable(*fpn(levels, outputs), *self.heads, *backbone(state))

    def settings(self, state: State) -> dict[str, Any]:
        return {**super().settings(state), "size_divisor": SIZE_DIVISOR}


@FORMATS.register_module()
class MMDetectionRCNN(MMDetection):
    """Faster, Mask and Cascade R-CNN. The mask heads of a Cascade Mask R-CNN are not converted: MMDetection has one for
    each stage, and averages their masks."""

    heads = RCNN

    def recognizes(self, state: State) -> bool:
        return {"rpn_head.rpn_cls.weight", "neck.fpn_convs.0.conv.weight"} <= state.keys() and any(
            name.startswith("roi_head.bbox_head.") and "shared_fcs." in name for name in state
        )

    def names(self, state: State) -> NameTable:
        several = "rpn_head.rpn_conv.0.conv.weight" in state or "rpn.convs.1.weight" in state
        table = super().names(state)
        return table if several else NameTable(*(pair for pair in table.pairs if pair != RCNN[0]))

    def settings(self, state: State) -> dict[str, Any]:
        heads = ["mask"] if "roi_head.mask_head.conv_logits.weight" in state else []
        settings = super().settings(state)
        if "roi_head.bbox_head.0.fc_cls.weight" in state:
            settings |= {"box.box_weights": CASCADE_WEIGHTS, "box.averaged": "logits"}
        else:
            heads.append("box")
        return {**settings, **region_settings(heads)}

    def outputs(self, state: State) -> int:
        name = next(name for name in state if name.startswith("roi_head.bbox_head.") and name.endswith("fc_cls.bias"))
        return len(state[name]) - 1

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        theirs = Detectron2RCNN()
        named = theirs.config(theirs.restore(self.convert(state, None), None))
        return None if named is None else (named[0], named[1] | _classes(self, state))


@FORMATS.register_module()
class MMDetectionRetinaNet(MMDetection):
    """RetinaNet. MMDetection orders the anchors of a cell by ratio, then by size; Chordate by size, then by ratio."""

    heads = RETINA

    def recognizes(self, state: State) -> bool:
        return {"bbox_head.retina_cls.weight", "neck.fpn_convs.0.conv.weight"} <= state.keys()

    def convert(self, state: State, model: Any) -> State:
        ours = super().convert(state, model)
        per_cell = len(ours["head.bbox_pred.bias"]) // 4
        predictors = {name: by_size(x, per_cell) for name, x in ours.items() if name.startswith(_PREDICTORS)}
        return ours | predictors

    def restore(self, state: State, model: Any) -> State:
        per_cell = len(state.get("head.bbox_pred.bias", ())) // 4
        predictors = {name: by_ratio(x, per_cell) for name, x in state.items() if name.startswith(_PREDICTORS)}
        return super().restore(state | predictors, model)

    def settings(self, state: State) -> dict[str, Any]:
        exact = {"head.anchors.rounded": False, "head.anchors.stride_from_grid": False}
        return {**super().settings(state), **exact}

    def outputs(self, state: State) -> int:
        return 4 * len(state["bbox_head.retina_cls.bias"]) // len(state["bbox_head.retina_reg.bias"])

    def config(self, state: State) -> tuple[str, dict[str, Any]] | None:
        theirs = Detectron2RetinaNet()
        named = theirs.config(theirs.restore(self.convert(state, None), None))
        return None if named is None else (named[0], named[1] | _classes(self, state))


_PREDICTORS = ("head.cls_score.", "head.bbox_pred.")


def _classes(format: MMDetection, state: State) -> dict[str, Any]:
    """The override of the class names, unless they are COCO's."""
    meta = format.meta(state, None)  # type: ignore[arg-type]
    names = meta.classes if meta else ()
    return {"fallback_meta.classes": list(names)} if names and len(names) != 80 else {}
