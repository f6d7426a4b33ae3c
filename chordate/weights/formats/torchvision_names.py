"""Pairs of tensor-name prefixes (torchvision's, ours) for every part of torchvision's detectors; see `NameTable`.

A pair for the names of torchvision 0.12 and older follows the pair for the current names, which are written.
"""

from __future__ import annotations

from chordate.weights.formats.architecture import count
from chordate.weights.formats.format import State
from chordate.weights.formats.name_table import NameTable, Pairs


def rcnn(state: State) -> NameTable:
    """The table of a Faster, Mask or Keypoint R-CNN; `state` has torchvision's names or ours."""
    return NameTable(*_fpn(2), *_RPN, *_box_head(state), *_MASK, *_KEYPOINT)


def retinanet() -> NameTable:
    """The table of a RetinaNet."""
    return NameTable(*_fpn(3), *_RETINA)


def _fpn(first: int) -> Pairs:
    """Pairs of the backbone and the FPN, whose finest level is c`first`."""
    levels = (
        (f"backbone.fpn.{theirs}.{number}.{layer}", f"neck.{ours}{first + number}.{ours_layer}")
        for theirs, ours in (("inner_blocks", "lateral.c"), ("layer_blocks", "output.p"))
        for number in range(6 - first)
        for layer, ours_layer in (("#.", "#."), ("", "0."))
    )
    return (*levels, ("backbone.fpn.extra_blocks.", "neck.extra."), ("backbone.body.", "backbone."))


_RPN: Pairs = (
    ("rpn.head.conv.#.0.", "rpn.convs.#."),
    ("rpn.head.conv.", "rpn.convs.0."),
    ("rpn.head.cls_logits.", "rpn.objectness_logits."),
    ("rpn.head.bbox_pred.", "rpn.anchor_deltas."),
)


def _box_head(state: State) -> Pairs:
    """Pairs of the box head.

    Without convolutions, the fully connected layers are `fc6` and `fc7`. With convolutions, there is only one, which
    follows nn.Flatten, so its index in the nn.Sequential is the number of convolutions + 1.
    """
    convs = count(state, "roi_heads.box_head.{}.0.weight") or count(state, "box.trunk.convs.{}.0.weight")
    linear = [f"{convs + 1}."] if convs else ["fc6.", "fc7."]
    return (
        ("roi_heads.box_head.#.#.", "box.trunk.convs.#.#."),
        *((f"roi_heads.box_head.{theirs}", f"box.trunk.fcs.{number}.") for number, theirs in enumerate(linear)),
        ("roi_heads.box_predictor.cls_score.", "box.cls_score."),
        ("roi_heads.box_predictor.bbox_pred.", "box.bbox_pred."),
    )


_MASK: Pairs = (
    ("roi_heads.mask_head.#.#.", "mask.convs.#.#."),
    *((f"roi_heads.mask_head.mask_fcn{number + 1}.", f"mask.convs.{number}.0.") for number in range(9)),
    ("roi_heads.mask_predictor.conv5_mask.", "mask.upsample."),
    ("roi_heads.mask_predictor.mask_fcn_logits.", "mask.masks."),
)
# A ReLU without tensors follows each convolution of the keypoint head and of RetinaNet's towers without norms.
_KEYPOINT: Pairs = (
    *((f"roi_heads.keypoint_head.{2 * number}.", f"keypoint.convs.{number}.0.") for number in range(16)),
    ("roi_heads.keypoint_predictor.kps_score_lowres.", "keypoint.heatmaps."),
)
_RETINA: Pairs = (
    *(
        (f"head.{theirs}_head.conv.{layer}", f"head.{ours}_tower.{ours_layer}")
        for theirs, ours in (("classification", "class"), ("regression", "box"))
        for layer, ours_layer in (("#.#.", "#.#."), *((f"{2 * n}.", f"{n}.0.") for n in range(4)))
    ),
    ("head.classification_head.cls_logits.", "head.cls_score."),
    ("head.regression_head.bbox_reg.", "head.bbox_pred."),
)
