"""Format of Detectron2's semantic segmentation models: DeepLab v3 and v3+, and Semantic FPN."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from chordate.data.cityscapes import CITYSCAPES_CLASSES
from chordate.data.coco_classes import COCO_STUFF
from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.formats import detectron2_names as names
from chordate.weights.formats.architecture import Overrides, neck, norm_of, resnet
from chordate.weights.formats.detectron2_detectors import FPN_DIVISOR, Detectron2Format
from chordate.weights.formats.format import State
from chordate.weights.formats.name_table import NameTable, Pairs

# Settings from Detectron2's DeepLab configs; they are not read from the tensors. R-103 has output stride 16 and
# multi-grid, and is trained on crops of 512×1024 px, whose feature maps have 32×64 cells.
_DEEPLAB: Overrides = {
    "model.backbone.output_stride": 16,
    "model.backbone.multi_grid": [1, 2, 4],
    "model.auxiliary": None,
    "model.head.channels": 256,
    "model.head.project_kernel": 1,
    "model.head.aspp_dropout": 0.1,
    "model.head.dropout": 0.0,
    "model.head.pooling_norm": False,
}
_POOLING_SIZE = (32, 64)
_DECODER = "head.decoder.0.0.weight"  # weight of the first convolution of v3+'s decoder


@FORMATS.register_module()
class Detectron2Segmentation(Detectron2Format):
    """DeepLab v3 and v3+ on a ResNet, and a semantic head on FPN (`SemSegFPNHead`)."""

    def recognizes(self, state: State) -> bool:
        others = ("proposal_generator.", "ins_embed_head.")
        is_supported = _head(state) is not None and "sem_seg_head.decoder.res3.project_conv.weight" not in state
        return is_supported and not any(name.startswith(others) for name in state)

    def names(self, state: State, ours: bool) -> NameTable:
        head = _our_head(state) if ours else _head(state)
        if head == "fpn":
            pairs = (*names.FPN, *names.resnet("backbone.bottom_up.", "backbone."), *names.semantic_fpn("head."))
            return NameTable(*pairs)
        return NameTable(
            *dilated_resnet(state, ours), *(names.DEEPLAB_V3_PLUS if head == "v3plus" else names.DEEPLAB_V3)
        )

    def convert(self, state: State, model: Any) -> State:
        ours = super().convert(state, model)
        if _DECODER in ours:  # Detectron2 concatenates the finer feature map before ASPP's output, we after it
            low, weight = len(ours["head.low.0.weight"]), ours[_DECODER]
            ours[_DECODER] = torch.cat([weight[:, low:], weight[:, :low]], dim=1)
        return ours

    def restore(self, state: State, model: Any) -> State:
        if _DECODER in state:
            low, weight = len(state["head.low.0.weight"]), state[_DECODER]
            state = {**state, _DECODER: torch.cat([weight[:, -low:], weight[:, :-low]], dim=1)}
        return super().restore(state, model)

    def settings(self, state: State) -> dict[str, Any]:
        settings = super().settings(state)
        if _head(state) == "fpn":
            return {**settings, "size_divisor": FPN_DIVISOR}
        return {**settings, "size_divisor": 1, "head.pooling_size": _POOLING_SIZE}

    def meta(self, state: State, model: nn.Module) -> DatasetMeta | None:
        known = {len(CITYSCAPES_CLASSES): CITYSCAPES_CLASSES, 1 + len(COCO_STUFF): ("things", *COCO_STUFF)}
        classes = known.get(len(state["sem_seg_head.predictor.bias"]))
        return None if classes is None else DatasetMeta(classes)

    def config(self, state: State) -> tuple[str, Overrides] | None:
        head, ours = _head(state), self.convert(state, None)
        backbone, overrides = resnet(ours)
        meta = self.meta(state, nn.Identity())
        classes = len(state["sem_seg_head.predictor.bias"])
        overrides["fallback_meta.classes"] = list(meta.classes) if meta else classes
        if head == "fpn":
            norm = norm_of(ours, "head.branches.p2.0.0.1.")
            overrides |= {**neck(ours), "model.head.norm": norm, "model.head.dropout": 0.0}
            return f"semantic-fpn_{backbone}_fpn_80k_cityscapes", overrides
        overrides |= _DEEPLAB
        if head == "v3":
            overrides |= {"model.backbone.out": ["c5"], "model.head.final_conv": False}
            return f"deeplabv3_{backbone}_d8_80k_cityscapes", overrides
        separable = "sem_seg_head.decoder.res5.project_conv.convs.1.depthwise.weight" in state
        overrides |= {"model.backbone.out": ["c2", "c5"], "model.head.separable": separable}
        return f"deeplabv3plus_{backbone}_d8_80k_cityscapes", overrides


def dilated_resnet(state: State, ours: bool) -> Pairs:
    """Pairs of name prefixes of a ResNet without FPN; `state` has our names if `ours`, else Detectron2's."""
    is_deep = ("backbone.conv1.6.weight" if ours else "backbone.stem.conv3.weight") in state
    return (names.deep_resnet if is_deep else names.resnet)("backbone.", "backbone.")


def _head(state: State) -> str | None:
    """The type of the head in `state`, inferred from Detectron2's tensor names: "v3", "v3plus" or "fpn"; None if there
    is no such head."""
    signs = {
        "v3": "sem_seg_head.aspp.project.weight",
        "v3plus": "sem_seg_head.decoder.res5.project_conv.project.weight",
        "fpn": "sem_seg_head.p2.0.weight",
    }
    return next((head for head, sign in signs.items() if sign in state), None)


def _our_head(state: State) -> str:
    """The type of the head in `state`, inferred from our tensor names: "v3", "v3plus" or "fpn"."""
    if "head.low.0.weight" in state:
        return "v3plus"
    return "v3" if "head.aspp.project.0.weight" in state else "fpn"
