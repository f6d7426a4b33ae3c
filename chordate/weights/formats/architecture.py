"""Recognizes the architecture of a network by its tensors: finds our nearest config, and the overrides that it needs.

The tensors must have our names, so the formats of other libraries convert a state dict first. `count` works with any
names; the names that `pools_in_shortcuts` reads are the same in OpenMMLab's libraries.
"""

from __future__ import annotations

from typing import Any

from chordate.data.coco_classes import COCO_CLASSES, COCO_STUFF
from chordate.structures import DatasetMeta
from chordate.weights.formats.format import State

Overrides = dict[str, Any]

# (numbers of blocks in c2 … c4, whether the blocks are bottlenecks) -> depth of the ResNet. In a C4 model, c5 is not in
# the backbone.
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2), False): 18,
    ((3, 4, 6), False): 34,
    ((3, 4, 6), True): 50,
    ((3, 4, 23), True): 101,
    ((3, 8, 36), True): 152,
}
_NAMED = {(101, 32, 8): "x101-32x8d", (50, 32, 4): "x50-32x4d", (101, 64, 4): "x101-64x4d"}  # (depth, groups, width)
_DEEP_STEM = "backbone.conv1.6.weight"


def resnet(state: State) -> tuple[str, Overrides]:
    """The part of a config's name that names the backbone, and overrides of its settings.

    Raises:
        ValueError: the network is not a ResNet whose depth we know.
    """
    blocks = tuple(count(state, f"backbone.layer{number}.{{}}.conv1.weight") for number in (1, 2, 3))
    is_bottleneck = "backbone.layer1.0.conv3.weight" in state
    if (blocks, is_bottleneck) not in _DEPTHS:
        raise ValueError(f"with {blocks} blocks in c2 … c4, it is not a ResNet-18, 34, 50, 101 or 152")
    depth = _DEPTHS[blocks, is_bottleneck]
    overrides: Overrides = {"model.backbone.pretrained": None}
    norm = norm_of(state, "backbone.bn1.")
    if norm is not None:
        overrides["model.backbone.norm"] = {"_delete_": True, "type": norm}
    is_deep, pools = _DEEP_STEM in state, pools_in_shortcuts(state)
    if is_deep:
        _set(overrides, "model.backbone.stem_channels", len(state[_DEEP_STEM]), 64)
    groups, width = 1, 64
    if is_bottleneck:
        weight = state["backbone.layer1.0.conv2.weight"]
        groups, width = weight.shape[0] // weight.shape[1], weight.shape[1]
    name = _NAMED.get((depth, groups, width))
    if name is None and groups == 1 and is_deep:
        name = f"resnet{depth}d" if pools else f"r{depth}c"
    else:
        _set(overrides, "model.backbone.stem", "deep" if is_deep else "7x7", "7x7")
        _set(overrides, "model.backbone.shortcut", "D" if pools else "B", "B")
    if name is None or name not in _NAMED.values():
        _set(overrides, "model.backbone.groups", groups, 1)
        _set(overrides, "model.backbone.group_width", width, 64)
    return name or f"r{depth}", overrides


def pools_in_shortcuts(state: State) -> bool:
    """Whether shortcuts have an average pool (ResNet-D), which precedes the convolution in the nn.Sequential."""
    second = state.get("backbone.layer2.0.downsample.1.weight")
    return second is not None and second.ndim == 4


def detector(state: State, meta: DatasetMeta | None) -> tuple[str, Overrides] | None:
    """The config's name and the overrides of a RetinaNet, an R-CNN or a Panoptic FPN on a ResNet.

    Args:
        meta: the classes of the outputs; None if unknown.

    Returns:
        None if the model predicts keypoints or stuff and `meta` is None, since their names are not in the weights.

    Raises:
        ValueError: as in `resnet`.
    """
    family = _family(state)
    if meta is None and family in ("keypoint-rcnn", "panoptic-fpn"):
        return None
    backbone, overrides = resnet(state)
    overrides |= neck(state) | (_retina_head(state) if family == "retinanet" else _region_heads(state))
    if meta is None:
        overrides["fallback_meta.classes"] = num_classes(state)
    elif family in ("faster-rcnn", "mask-rcnn", "cascade-rcnn", "cascade-mask-rcnn", "retinanet"):
        _set(overrides, "fallback_meta.classes", list(meta.classes), list(COCO_CLASSES))
    trunk = "c4" if _is_c4(state) else "fpn" if "neck.lateral.c5.0.weight" in state else "dc5"
    return f"{family}_{backbone}_{trunk}_1x_coco", overrides


def num_classes(state: State) -> int:
    """The number of classes of a detector, without background."""
    if "head.cls_score.bias" in state:
        return 4 * len(state["head.cls_score.bias"]) // len(state["head.bbox_pred.bias"])
    stage = "stages.0." if _is_cascade(state) else ""
    return len(state[f"box.{stage}cls_score.bias"]) - 1


def coco_meta(state: State) -> DatasetMeta | None:
    """Metadata with COCO's classes (and stuff for a Panoptic FPN) if their number fits the detector; else None."""
    stuff = state.get("semantic.logits.bias")
    if num_classes(state) != len(COCO_CLASSES) or (stuff is not None and len(stuff) != 1 + len(COCO_STUFF)):
        return None
    return DatasetMeta(COCO_CLASSES) if stuff is None else DatasetMeta(COCO_CLASSES + COCO_STUFF, stuff=COCO_STUFF)


def _family(state: State) -> str:
    if "head.cls_score.weight" in state:
        return "retinanet"
    if "semantic.logits.weight" in state:
        return "panoptic-fpn"
    if "keypoint.heatmaps.weight" in state:
        return "keypoint-rcnn"
    has_masks = f"{_mask_stage(state)}masks.weight" in state
    if _is_cascade(state):
        return "cascade-mask-rcnn" if has_masks else "cascade-rcnn"
    return "mask-rcnn" if has_masks else "faster-rcnn"


def _is_cascade(state: State) -> bool:
    return "box.stages.0.cls_score.weight" in state


def _mask_stage(state: State) -> str:
    """Prefix of the names of the mask head, or of its first stage."""
    return "mask.stages.0." if "mask.stages.0.masks.weight" in state else "mask."


def _is_c4(state: State) -> bool:
    return "box.trunk.stage.layer4.0.conv1.weight" in state


def neck(state: State) -> Overrides:
    """Overrides of an FPN's channels and norm; empty if `state` has no FPN."""
    overrides: Overrides = {}
    levels = sorted(name for name in state if name.startswith("neck.output.") and name.endswith(".0.weight"))
    if levels:
        _set(overrides, "model.neck.channels", len(state[levels[0]]), 256)
        _set(overrides, "model.neck.norm", norm_of(state, levels[0].replace(".0.weight", ".1.")), None)
    return overrides


def _retina_head(state: State) -> Overrides:
    """Overrides of RetinaNet's head, and of the feature map that p6 is computed from."""
    overrides: Overrides = {}
    _set(overrides, "model.head.convs", count(state, "head.class_tower.{}.0.weight"), 4)
    _set(overrides, "model.head.norm", norm_of(state, "head.class_tower.0.1."), None)
    channels = state["neck.extra.p6.weight"].shape[1]
    overrides["model.neck.extra"] = "c5" if channels == state["neck.lateral.c5.0.weight"].shape[1] else "p5"
    return overrides


def _region_heads(state: State) -> Overrides:
    overrides: Overrides = {}
    _set(overrides, "model.rpn.convs", count(state, "rpn.convs.{}.weight"), 1)
    overrides |= _box_head(state)
    if f"{_mask_stage(state)}masks.weight" in state:
        overrides |= _mask_head(state)
    if "keypoint.heatmaps.weight" in state:
        _set(overrides, "model.keypoint.convs", count(state, "keypoint.convs.{}.0.weight"), 8)
        _set(overrides, "model.keypoint.channels", len(state["keypoint.convs.0.0.weight"]), 512)
    return overrides


def _box_head(state: State) -> Overrides:
    name, stage = ("model.box.stage", "box.stages.0.") if _is_cascade(state) else ("model.box", "box.")
    overrides: Overrides = {}
    convs, fcs = (count(state, f"{stage}trunk.{layer}.weight") for layer in ("convs.{}.0", "fcs.{}"))
    if convs or fcs:
        _set(overrides, f"{name}.trunk.convs", convs, 0)
        _set(overrides, f"{name}.trunk.fcs", fcs, 2)
    if convs:
        _set(overrides, f"{name}.trunk.conv_channels", len(state[f"{stage}trunk.convs.0.0.weight"]), 256)
        _set(overrides, f"{name}.trunk.norm", norm_of(state, f"{stage}trunk.convs.0.1."), None)
    if fcs:
        _set(overrides, f"{name}.trunk.fc_channels", len(state[f"{stage}trunk.fcs.0.weight"]), 1024)
    if not _is_cascade(state) and num_classes(state) > 1:
        _set(overrides, "model.box.class_agnostic", len(state["box.bbox_pred.bias"]) == 4, False)
    return overrides


def _mask_head(state: State) -> Overrides:
    overrides: Overrides = {}
    name, stage = "model.mask", _mask_stage(state)
    if stage != "mask.":
        stages = count(state, "mask.stages.{}.masks.weight")
        overrides |= {"model.mask.type": "CascadeMaskHead", "model.mask.stages": stages}
        name = "model.mask.stage"
    masks = state[f"{stage}masks.weight"]
    _set(overrides, f"{name}.convs", count(state, f"{stage}convs.{{}}.0.weight"), 0 if _is_c4(state) else 4)
    _set(overrides, f"{name}.channels", masks.shape[1], 256)
    _set(overrides, f"{name}.norm", norm_of(state, f"{stage}convs.0.1."), None)
    if num_classes(state) > 1:
        _set(overrides, f"{name}.class_agnostic", len(masks) == 1, False)
    return overrides


def norm_of(state: State, layer: str) -> str | None:
    """Infer the type of a norm from its tensors: "BN" (trained), "FrozenBN" or "GN"; None if there is no such norm.

    Args:
        state: tensors by name.
        layer: prefix of the norm's tensors, such as `backbone.bn1.`.
    """
    if f"{layer}weight" not in state:
        return None
    if f"{layer}running_mean" not in state:
        return "GN"
    return "BN" if f"{layer}num_batches_tracked" in state else "FrozenBN"


def count(state: State, name: str) -> int:
    """The number of layers in `state`, counted from 0 up to a gap; `name` is like `neck.fpn_convs.{}.conv.weight`."""
    number = 0
    while name.format(number) in state:
        number += 1
    return number


def _set(overrides: Overrides, name: str, value: Any, default: Any) -> None:
    if value != default:
        overrides[name] = value
