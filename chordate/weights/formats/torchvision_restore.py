"""Converts our detectors' state dicts to torchvision's names, for `restore` of `TorchvisionRCNN` and
`TorchvisionRetinaNet`."""

from __future__ import annotations

import torch
from torch import Tensor

from chordate.weights.formats.format import Names, State, rename_all

_PYRAMID: Names = (
    (r"backbone\.", "backbone.body."),
    (r"neck\.extra\.", "backbone.fpn.extra_blocks."),
)
_RCNN: Names = (
    (r"neck\.lateral\.c(\d)\.", lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 2}."),
    (r"neck\.output\.p(\d)\.", lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 2}."),
    *_PYRAMID,
    (r"rpn\.convs\.(\d)\.", r"rpn.head.conv.\1.0."),
    (r"rpn\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"rpn\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"box\.trunk\.convs\.", "roi_heads.box_head."),
    (r"box\.(cls_score|bbox_pred)\.", r"roi_heads.box_predictor.\1."),
    (r"mask\.convs\.", "roi_heads.mask_head."),
    (r"mask\.upsample\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"mask\.masks\.", "roi_heads.mask_predictor.mask_fcn_logits."),
    (r"keypoint\.convs\.(\d)\.0\.", lambda m: f"roi_heads.keypoint_head.{2 * int(m[1])}."),
    (r"keypoint\.heatmaps\.", "roi_heads.keypoint_predictor.kps_score_lowres."),
)
_RETINANET: Names = (
    (r"neck\.lateral\.c(\d)\.", lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 3}."),
    (r"neck\.output\.p(\d)\.", lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 3}."),
    *_PYRAMID,
    (r"head\.class_tower\.", "head.classification_head.conv."),
    (r"head\.cls_score\.", "head.classification_head.cls_logits."),
    (r"head\.box_tower\.", "head.regression_head.conv."),
    (r"head\.bbox_pred\.", "head.regression_head.bbox_reg."),
)


def restore_rcnn(state: State) -> State:
    """The state dict of an R-CNN with torchvision's names. The background is the first class; its rows of the
    box and mask predictors, whose outputs torchvision never uses, are zero."""
    convs = sum(name.startswith("box.trunk.convs.") and name.endswith(".0.weight") for name in state)
    # Without convolutions, the fully connected layers are fc6 and fc7. With convolutions, there is only one, which
    # follows nn.Flatten, so its index in the nn.Sequential is convs + 1.
    linear = [f"{convs + 1}."] if convs else ["fc6.", "fc7."]
    fcs = tuple((rf"box\.trunk\.fcs\.{n}\.", f"roi_heads.box_head.{name}") for n, name in enumerate(linear))
    theirs = dict(state)
    for name, tensor in state.items():
        if name.startswith("box.cls_score."):
            theirs[name] = torch.cat((tensor[-1:], tensor[:-1]))
        elif name.startswith("box.bbox_pred."):
            theirs[name] = _after_background(tensor, 4)
        elif name.startswith("mask.masks."):
            theirs[name] = _after_background(tensor, 1)
    return rename_all(theirs, (*fcs, *_RCNN))


def restore_retinanet(state: State) -> State:
    """The state dict of a RetinaNet with torchvision's names; `state` must already have torchvision's anchor order."""
    return rename_all(state, _RETINANET)


def _after_background(rows: Tensor, count: int) -> Tensor:
    return torch.cat((torch.zeros_like(rows[:count]), rows))
