"""Recognizes the architecture of Detectron2's models: the name of our config, and overrides where they differ."""

from __future__ import annotations

from typing import Any

from chordate.weights.formats.format import State

Overrides = dict[str, Any]

# Depth of a ResNet by its numbers of blocks in res2 … res4 (res5 is not in the backbone of a C4 model), and whether its
# blocks are bottlenecks.
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2), False): 18,
    ((3, 4, 6), False): 34,
    ((3, 4, 6), True): 50,
    ((3, 4, 23), True): 101,
    ((3, 8, 36), True): 152,
}
_NAMED = {(101, 32, 8): "x101-32x8d", (50, 32, 4): "x50-32x4d", (101, 64, 4): "x101-64x4d"}  # depth, groups, width


def backbone_overrides(state: State, resnet: str) -> tuple[str, Overrides]:
    """The part of a config's name that names the backbone, and overrides of its settings.

    Args:
        state: tensors, keyed by Detectron2's names.
        resnet: prefix of the names of the ResNet.

    Raises:
        ValueError: the network is not a ResNet whose depth we know.
    """
    counts = tuple(_count(state, f"{resnet}res{number}.{{}}.conv1.weight") for number in (2, 3, 4))
    is_bottleneck = f"{resnet}res2.0.conv3.weight" in state
    if (counts, is_bottleneck) not in _DEPTHS:
        raise ValueError(f"no ResNet has {counts} blocks in res2 … res4")
    depth = _DEPTHS[counts, is_bottleneck]
    overrides: Overrides = {"model.backbone.pretrained": None}
    norm = norm_of(state, f"{resnet}stem.conv1.norm.")
    if norm is not None:
        overrides["model.backbone.norm"] = {"_delete_": True, "type": norm}
    if f"{resnet}stem.conv3.weight" in state:
        overrides["model.backbone.stem_channels"] = len(state[f"{resnet}stem.conv3.weight"])
        return f"r{depth}c", overrides
    if not is_bottleneck:
        return f"r{depth}", overrides
    weight = state[f"{resnet}res2.0.conv2.weight"]
    groups, width = weight.shape[0] // weight.shape[1], weight.shape[1]
    if groups == 1:
        if width != 64:
            overrides["model.backbone.group_width"] = width
        return f"r{depth}", overrides
    if (depth, groups, width) not in _NAMED:
        overrides |= {"model.backbone.groups": groups, "model.backbone.group_width": width}
    return _NAMED.get((depth, groups, width), f"r{depth}"), overrides


def heads_overrides(state: State) -> Overrides:
    """Overrides of the neck and the heads where a model differs from Detectron2's defaults."""
    overrides: Overrides = {}
    lateral = next((state[name] for name in state if name.startswith("backbone.fpn_output")), None)
    if lateral is not None:
        level = min(name for name in state if name.startswith("backbone.fpn_output")).split(".")[1]
        _set(overrides, "model.neck.channels", lateral.shape[0], 256)
        _set(overrides, "model.neck.norm", norm_of(state, f"backbone.{level}.norm."), None)
    rpn = _count(state, "proposal_generator.rpn_head.conv.conv{}.weight")
    _set(overrides, "model.rpn.convs", rpn or 1, 1)
    overrides |= _box_overrides(state) | _mask_overrides(state)
    keypoint = _count(state, "roi_heads.keypoint_head.conv_fcn{}.weight", first=1)
    if keypoint:
        _set(overrides, "model.keypoint.convs", keypoint, 8)
        _set(overrides, "model.keypoint.channels", len(state["roi_heads.keypoint_head.conv_fcn1.weight"]), 512)
    return overrides


def _box_overrides(state: State) -> Overrides:
    overrides: Overrides = {}
    stages = _count(state, "roi_heads.box_predictor.{}.cls_score.weight")
    theirs = "roi_heads.box_head.0." if stages else "roi_heads.box_head."
    ours = "model.box.stage" if stages else "model.box"
    trunk: Overrides = {}
    convs = _count(state, f"{theirs}conv{{}}.weight", first=1)
    fcs = _count(state, f"{theirs}fc{{}}.weight", first=1)
    if convs or fcs:
        _set(trunk, "convs", convs, 0)
        _set(trunk, "fcs", fcs, 2)
    if convs:
        _set(trunk, "conv_channels", len(state[f"{theirs}conv1.weight"]), 256)
        _set(trunk, "norm", norm_of(state, f"{theirs}conv1.norm."), None)
    if fcs:
        _set(trunk, "fc_channels", len(state[f"{theirs}fc1.weight"]), 1024)
    overrides |= {f"{ours}.trunk.{name}": value for name, value in trunk.items()}
    scores, boxes = (state.get(f"roi_heads.box_predictor.{name}.bias") for name in ("cls_score", "bbox_pred"))
    if scores is not None and boxes is not None and len(boxes) == 4 and len(scores) > 2:
        overrides["model.box.class_agnostic"] = True
    return overrides


def _mask_overrides(state: State) -> Overrides:
    overrides: Overrides = {}
    predictor = state.get("roi_heads.mask_head.predictor.weight")
    if predictor is None:
        return overrides
    default = 0 if "roi_heads.res5.0.conv1.weight" in state else 4
    _set(overrides, "model.mask.convs", _count(state, "roi_heads.mask_head.mask_fcn{}.weight", first=1), default)
    _set(overrides, "model.mask.channels", predictor.shape[1], 256)
    _set(overrides, "model.mask.norm", norm_of(state, "roi_heads.mask_head.mask_fcn1.norm."), None)
    scores = state.get("roi_heads.box_predictor.cls_score.bias")
    if len(predictor) == 1 and scores is not None and len(scores) > 2:
        overrides["model.mask.class_agnostic"] = True
    return overrides


def norm_of(state: State, layer: str) -> str | None:
    """The norm type that a layer's tensors imply: "BN" (trained), "FrozenBN" or "GN"; None without such a layer."""
    if f"{layer}weight" not in state:
        return None
    if f"{layer}running_mean" not in state:
        return "GN"
    return "BN" if f"{layer}num_batches_tracked" in state else "FrozenBN"


def _set(overrides: Overrides, name: str, value: Any, default: Any) -> None:
    if value != default:
        overrides[name] = value


def _count(state: State, name: str, first: int = 0) -> int:
    """The number of consecutive layers in `state`, from number `first`; `name` has a placeholder for the number."""
    number = first
    while name.format(number) in state:
        number += 1
    return number - first
