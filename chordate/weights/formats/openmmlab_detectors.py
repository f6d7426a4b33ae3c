"""Formats of MMDetection 2 and 3: Faster, Mask and Cascade R-CNN, and RetinaNet, on a ResNet with FPN."""

from __future__ import annotations

from typing import Any

from torch import nn

from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats.architecture import Overrides, coco_meta, count, detector, norm_of
from chordate.weights.formats.detectron2_settings import region_settings
from chordate.weights.formats.format import State
from chordate.weights.formats.name_table import NameTable, Pairs
from chordate.weights.formats.openmmlab import EXTRACTORS, MMFormat, backbone, conv_module, fpn
from chordate.weights.formats.openmmlab_config import at, numbers, size_divisor
from chordate.weights.formats.torchvision_detectors import by_ratio, by_size

SIZE_DIVISOR = 32  # pad_size_divisor in MMDetection's configs, for checkpoints without a config
# target_stds of the box coders of MMDetection's Cascade R-CNN; our box_weights are their inverses.
CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def box_head(theirs: str, ours: str) -> Pairs:
    """Pairs of name prefixes of a box head: shared convolutions, shared fully connected layers, and the predictors."""
    return (
        *conv_module(f"{theirs}shared_convs.#.", f"{ours}trunk.convs.#."),
        (f"{theirs}shared_fcs.#.", f"{ours}trunk.fcs.#."),
        (f"{theirs}fc_cls.", f"{ours}cls_score."),
        (f"{theirs}fc_reg.", f"{ours}bbox_pred."),
    )


def mask_head(theirs: str, ours: str) -> Pairs:
    """Pairs of name prefixes of a mask head."""
    return (
        *conv_module(f"{theirs}convs.#.", f"{ours}convs.#."),
        (f"{theirs}upsample.", f"{ours}upsample."),
        (f"{theirs}conv_logits.", f"{ours}masks."),
    )


RCNN: Pairs = (
    ("rpn_head.rpn_conv.#.conv.", "rpn.convs.#."),
    ("rpn_head.rpn_conv.", "rpn.convs.0."),
    ("rpn_head.rpn_cls.", "rpn.objectness_logits."),
    ("rpn_head.rpn_reg.", "rpn.anchor_deltas."),
    *box_head("roi_head.bbox_head.#.", "box.stages.#."),
    *box_head("roi_head.bbox_head.", "box."),
    *mask_head("roi_head.mask_head.#.", "mask.stages.#."),
    *mask_head("roi_head.mask_head.", "mask."),
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
        return {**super().settings(state), "size_divisor": size_divisor(self.cfg, SIZE_DIVISOR)}

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        return super().meta(state, model) or coco_meta(self.convert(state, None))

    def config(self, state: State) -> tuple[str, Overrides] | None:
        """See `Format.config`. By default, MMDetection trains the weights of BatchNorms, but freezes their statistics
        (`norm_eval`)."""
        ours = self.convert(state, None)
        named = detector(ours, self.meta(state, nn.Identity()))
        is_eval = at(self.cfg, "model.backbone.norm_eval", True) is True
        if named is not None and norm_of(ours, "backbone.bn1.") != "GN":
            trainable = at(self.cfg, "model.backbone.norm_cfg.requires_grad", True) is True
            frozen = {"type": "FrozenBN", "trainable": trainable}
            named[1]["model.backbone.norm"] = {"_delete_": True, **(frozen if is_eval else {"type": "BN"})}
        return named


@FORMATS.register_module()
class MMDetectionRCNN(MMDetection):
    """Faster, Mask and Cascade R-CNN; a Cascade Mask R-CNN has a mask head per stage, see `CascadeMaskHead`."""

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
        settings = super().settings(state)
        layers = {
            "box": "bbox_head.fc_cls",
            "box.stage": "bbox_head.0.fc_cls",
            "mask": "mask_head.conv_logits",
            "mask.stage": "mask_head.0.conv_logits",
        }
        heads = [head for head, layer in layers.items() if f"roi_head.{layer}.weight" in state]
        if "box.stage" in heads:
            settings |= {"box.box_weights": self._cascade_weights(), "box.averaged": "logits"}
        settings |= region_settings(heads)
        for head in heads:
            layer = at(self.cfg, f"model.roi_head.{EXTRACTORS[head]}.roi_layer", {})
            settings[f"{head}.aligned"] = at(layer, "aligned", True) is True
            ratio = at(layer, "sampling_ratio")
            settings[f"{head}.sampling_ratio"] = ratio if isinstance(ratio, int) else 0
        return settings

    def _cascade_weights(self) -> tuple[tuple[float, ...], ...]:
        coders = [at(self.cfg, f"model.roi_head.bbox_head.{stage}.bbox_coder.target_stds") for stage in range(3)]
        stds = [numbers(coder) or default for coder, default in zip(coders, CASCADE_STDS)]
        return tuple(tuple(1 / std for std in stage) for stage in stds)

    def outputs(self, state: State) -> int:
        name = next(name for name in state if name.startswith("roi_head.bbox_head.") and name.endswith("fc_cls.bias"))
        return len(state[name]) - 1


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
        return {
            **super().settings(state),
            "head.anchors.rounded": False,
            "head.anchors.stride_from_grid": False,
            "neck.extra_relu": at(self.cfg, "model.neck.relu_before_extra_convs", False) is True,
        }

    def outputs(self, state: State) -> int:
        return 4 * len(state["bbox_head.retina_cls.bias"]) // len(state["bbox_head.retina_reg.bias"])


_PREDICTORS = ("head.cls_score.", "head.bbox_pred.")
