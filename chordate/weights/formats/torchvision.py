"""Torchvision's state dicts in Chordate's names, one pair of functions a family of models."""

import warnings
from typing import Any

import torch
from torch import Tensor

from chordate.weights.formats.format import Family, Format, Names, State, renamed


def is_resnet(state: State) -> bool:
    """An ImageNet classifier: a ResNet with its `fc`, and without the squeezes that timm's may have."""
    wanted = {"conv1.weight", "layer1.0.conv1.weight", "fc.weight"}
    return wanted <= state.keys() and "layer1.0.se.fc1.weight" not in state


def resnet(state: State, model: Any) -> State:
    """Nothing to rename: our ResNet has torchvision's names. `fc` stays over for whoever has a use for it."""
    if getattr(model, "style", None) == "caffe":
        warnings.warn(
            f"{model.name}: torchvision trained these weights with the stride in the 3×3 convolution; "
            f'they fit, but features are off unless style="pytorch"',
            stacklevel=2,
        )
    return state


def is_rcnn(state: State) -> bool:
    """Faster R-CNN on a ResNet with FPN, or one of its kin."""
    return {"backbone.body.layer1.0.conv1.weight", "roi_heads.box_predictor.cls_score.weight"} <= state.keys()


# Files from before torchvision 0.13 lack one `.0` in the FPN and the RPN.
_RCNN_NAMES: Names = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(?=\d)", lambda m: f"neck.lateral.c{int(m[1]) + 2}."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.", lambda m: f"neck.lateral.c{int(m[1]) + 2}.0."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(?=\d)", lambda m: f"neck.output.p{int(m[1]) + 2}."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.", lambda m: f"neck.output.p{int(m[1]) + 2}.0."),
    (r"rpn\.head\.conv\.(\d)\.0\.", r"rpn.convs.\1."),
    (r"rpn\.head\.conv\.", "rpn.convs.0."),
    (r"rpn\.head\.cls_logits\.", "rpn.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", "rpn.anchor_deltas."),
    (r"roi_heads\.box_head\.fc([67])\.", lambda m: f"box.trunk.fcs.{int(m[1]) - 6}."),
    (r"roi_heads\.box_head\.(\d)\.(?=\d)", r"box.trunk.convs.\1."),
    (r"roi_heads\.box_head\.\d\.", "box.trunk.fcs.0."),  # the only one, after as many convolutions
    (r"roi_heads\.box_predictor\.cls_score\.", "box.cls_score."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "box.bbox_pred."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask.convs.{int(m[1]) - 1}.0."),
    (r"roi_heads\.mask_head\.(\d)\.", r"mask.convs.\1."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "mask.upsample."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask.masks."),
    (r"roi_heads\.keypoint_head\.(\d+)\.", lambda m: f"keypoint.convs.{int(m[1]) // 2}.0."),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint.heatmaps."),
)

# Torchvision's COCO detectors have an output for each category id up to 90; these ids were never given out.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def rcnn(state: State, model: Any) -> State:
    """Their background is class 0, ours the last. A model with COCO's 80 classes takes the rows of those."""
    ours = {renamed(name, _RCNN_NAMES): tensor for name, tensor in state.items()}
    rows = _class_rows(len(state["roi_heads.box_predictor.cls_score.weight"]), getattr(model, "num_classes", None))
    for suffix in ("weight", "bias"):
        logits = ours[f"box.cls_score.{suffix}"]
        ours[f"box.cls_score.{suffix}"] = torch.cat((logits[rows], logits[:1]))
        deltas = ours[f"box.bbox_pred.{suffix}"].unflatten(0, (-1, 4))
        ours[f"box.bbox_pred.{suffix}"] = deltas[rows].flatten(0, 1)
        if f"mask.masks.{suffix}" in ours:
            ours[f"mask.masks.{suffix}"] = ours[f"mask.masks.{suffix}"][rows]
    return ours


def _class_rows(outputs: int, num_classes: int | None) -> list[int]:
    """Which rows of torchvision's predictor stand for the model's classes, in order."""
    rows = list(range(1, outputs))
    if outputs == 91 and num_classes == 80:
        rows = [row for row in rows if row not in _COCO_GAPS]
    return rows


def is_retinanet(state: State) -> bool:
    return {"backbone.body.layer1.0.conv1.weight", "head.classification_head.cls_logits.weight"} <= state.keys()


_RETINANET_NAMES: Names = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?", lambda m: f"neck.lateral.c{int(m[1]) + 3}.0."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?", lambda m: f"neck.output.p{int(m[1]) + 3}.0."),
    (r"backbone\.fpn\.extra_blocks\.", "neck.extra."),
    (r"head\.classification_head\.conv\.(\d)\.(?=\d)", r"head.class_tower.\1."),
    (r"head\.classification_head\.conv\.(\d)\.", lambda m: f"head.class_tower.{int(m[1]) // 2}.0."),
    (r"head\.classification_head\.cls_logits\.", "head.cls_score."),
    (r"head\.regression_head\.conv\.(\d)\.(?=\d)", r"head.box_tower.\1."),
    (r"head\.regression_head\.conv\.(\d)\.", lambda m: f"head.box_tower.{int(m[1]) // 2}.0."),
    (r"head\.regression_head\.bbox_reg\.", "head.bbox_pred."),
)


_RATIOS = 3  # shapes of anchors


def retinanet(state: State, model: Any) -> State:
    """Its classes are COCO's ids as they are, 0 among them. A model with COCO's 80 classes takes the rows of those.

    Its anchors of a cell are ordered by ratio, then by size; ours by size, then by ratio, as Detectron2's.
    """
    ours = {renamed(name, _RETINANET_NAMES): tensor for name, tensor in state.items()}
    per_cell = len(ours["head.bbox_pred.bias"]) // 4
    for suffix in ("weight", "bias"):
        scores = _by_size(ours[f"head.cls_score.{suffix}"], per_cell)
        if getattr(model, "num_classes", None) != scores.shape[1]:
            scores = scores[:, _class_rows(scores.shape[1], getattr(model, "num_classes", None))]
        ours[f"head.cls_score.{suffix}"] = scores.flatten(0, 1)
        ours[f"head.bbox_pred.{suffix}"] = _by_size(ours[f"head.bbox_pred.{suffix}"], per_cell).flatten(0, 1)
    return ours


def _by_size(rows: Tensor, per_cell: int) -> Tensor:
    """A predictor's outputs `[per_cell * K, ...]` as `[per_cell, K, ...]`, anchors ordered by size."""
    return rows.unflatten(0, (_RATIOS, per_cell // _RATIOS, -1)).transpose(0, 1).flatten(0, 1)


def is_densenet(state: State) -> bool:
    return "features.denseblock1.denselayer1.norm1.weight" in state or (
        "features.denseblock1.denselayer1.norm.1.weight" in state  # as the published files have it
    )


_DENSENET_NAMES: Names = ((r"features\.(.*denselayer\d+\.(?:norm|conv))\.(?=\d\.)", r"\1"), (r"features\.", ""))


def densenet(state: State, model: Any) -> State:
    return {renamed(name, _DENSENET_NAMES): tensor for name, tensor in state.items()}


def is_convnext(state: State) -> bool:
    return {"features.0.0.weight", "features.1.0.layer_scale"} <= state.keys()


# Its `features` are the stem, then stages and, between them, what halves the map.
_CONVNEXT_NAMES: Names = (
    (r"features\.0\.", "stem."),
    (r"features\.([1357])\.(\d+)\.layer_scale$", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.gamma"),
    (r"features\.([1357])\.(\d+)\.block\.0\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.dwconv."),
    (r"features\.([1357])\.(\d+)\.block\.2\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.norm."),
    (r"features\.([1357])\.(\d+)\.block\.3\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.pwconv1."),
    (r"features\.([1357])\.(\d+)\.block\.5\.", lambda m: f"layer{int(m[1]) // 2 + 1}.{m[2]}.pwconv2."),
    (r"features\.([246])\.", lambda m: f"downsample{int(m[1]) // 2 + 1}."),
)


def convnext(state: State, model: Any) -> State:
    ours = {renamed(name, _CONVNEXT_NAMES): tensor for name, tensor in state.items()}
    return {name: tensor.flatten() if name.endswith(".gamma") else tensor for name, tensor in ours.items()}


FORMAT = Format(
    "torchvision",
    (
        Family(is_resnet, resnet),
        Family(is_densenet, densenet),
        Family(is_convnext, convnext),
        Family(is_rcnn, rcnn),
        Family(is_retinanet, retinanet),
    ),
)
