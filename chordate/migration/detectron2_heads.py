"""Converts the heads of Detectron2 configs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chordate.errors import ConfigError
from chordate.migration.anchor_sizes import FPN_SIZES, RETINA_SIZES, anchor_arguments
from chordate.migration.config_conversion import Keys
from chordate.migration.detectron2_norms import norm_name

HARD_FRACTION = 0.2  # fraction of all pixels, the hardest, that the DeepLab project's "hard_pixel_mining" averages


def rpn_head(settings: Keys) -> dict[str, Any]:
    """Convert `MODEL.RPN` and `MODEL.ANCHOR_GENERATOR` to `model.rpn`."""
    rpn = settings.part("RPN")
    rpn.expect("HEAD_NAME", "StandardRPNHead", reason="RPNHead instead")
    rpn.expect("BOUNDARY_THRESH", -1, reason="anchors that cross the border are used", effect="training")
    rpn.expect("IOU_LABELS", [0, -1, 1], reason="labels are negative, ignored, positive", effect="training")
    rpn.expect("BBOX_REG_WEIGHTS", [1.0] * 4, reason="box deltas have weights of 1")
    rpn.expect("LOSS_WEIGHT", 1.0, reason="the objectness loss has weight 1", effect="training")
    dims = list(rpn.get("CONV_DIMS"))
    channels = settings.part("FPN").get("OUT_CHANNELS")
    if any(width not in (-1, channels) for width in dims):
        rpn.lose("CONV_DIMS", "convolutions keep the number of channels")
    return {
        "type": "RPNHead",
        **_levels(settings, rpn.get("IN_FEATURES"), len(rpn.get("IN_FEATURES"))),
        "anchors": _anchors(settings, rpn.get("IN_FEATURES"), FPN_SIZES),
        "convs": len(dims),
        "batch_size_per_image": rpn.get("BATCH_SIZE_PER_IMAGE"),
        "positive_fraction": rpn.get("POSITIVE_FRACTION"),
        "iou_thresholds": list(rpn.get("IOU_THRESHOLDS")),
        "pre_nms_topk": [rpn.get("PRE_NMS_TOPK_TRAIN"), rpn.get("PRE_NMS_TOPK_TEST")],
        "post_nms_topk": [rpn.get("POST_NMS_TOPK_TRAIN"), rpn.get("POST_NMS_TOPK_TEST")],
        "nms_threshold": rpn.get("NMS_THRESH"),
        **_box_loss(rpn, "SMOOTH_L1_BETA"),
    }


def box_head(settings: Keys, detections_per_image: int) -> dict[str, Any]:
    """Convert `MODEL.ROI_HEADS`, `ROI_BOX_HEAD` and `ROI_BOX_CASCADE_HEAD` to `model.box`."""
    rois, box = settings.part("ROI_HEADS"), settings.part("ROI_BOX_HEAD")
    name = rois.get("NAME")
    if name not in ("Res5ROIHeads", "StandardROIHeads", "CascadeROIHeads"):
        raise ConfigError(
            f"MODEL.ROI_HEADS.NAME {name} has no counterpart in Chordate; Res5ROIHeads, StandardROIHeads and "
            f"CascadeROIHeads have one"
        )
    rois.expect("IOU_LABELS", [0, 1], reason="labels are negative and positive", effect="training")
    rois.expect("PROPOSAL_APPEND_GT", True, reason="the objects are among the proposals", effect="training")
    rois.ignore("NUM_CLASSES")
    for flag in ("TRAIN_ON_PRED_BOXES", "USE_FED_LOSS", "USE_SIGMOID_CE"):
        box.expect(flag, False, reason="not supported", effect="predictions" if "SIGMOID" in flag else "training")
    arguments = {
        "type": "BoxHead",
        **_pooling(box),
        **_levels(settings, rois.get("IN_FEATURES"), 4),
        "batch_size_per_image": rois.get("BATCH_SIZE_PER_IMAGE"),
        "positive_fraction": rois.get("POSITIVE_FRACTION"),
        **_box_loss(box, "SMOOTH_L1_BETA"),
        "score_threshold": rois.get("SCORE_THRESH_TEST"),
        "nms_threshold": rois.get("NMS_THRESH_TEST"),
        "detections_per_image": detections_per_image,
    }
    if name == "Res5ROIHeads":
        box.ignore("NAME", "NUM_FC", "NUM_CONV", "FC_DIM", "CONV_DIM", "NORM")
    else:
        box.expect("NAME", "FastRCNNConvFCHead", reason="ConvFC instead")
        norm = norm_name(box, "NORM")
        arguments["trunk"] = {
            "type": "ConvFC",
            "convs": box.get("NUM_CONV"),
            "conv_channels": box.get("CONV_DIM"),
            "fcs": box.get("NUM_FC"),
            "fc_channels": box.get("FC_DIM"),
            "norm": norm,
        }
    if name != "CascadeROIHeads":
        (threshold,) = rois.get("IOU_THRESHOLDS")
        return arguments | {
            "iou_threshold": threshold,
            "box_weights": list(box.get("BBOX_REG_WEIGHTS")),
            "class_agnostic": box.get("CLS_AGNOSTIC_BBOX_REG"),
        }
    cascade = settings.part("ROI_BOX_CASCADE_HEAD")
    box.ignore("CLS_AGNOSTIC_BBOX_REG")  # Detectron2 requires True for a cascade
    del arguments["type"]
    return {
        "type": "CascadeHead",
        "iou_thresholds": list(cascade.get("IOUS")),
        "box_weights": [list(weights) for weights in cascade.get("BBOX_REG_WEIGHTS")],
        "stage": arguments,
    }


def mask_head(settings: Keys, shares_trunk: bool) -> dict[str, Any]:
    """Convert `MODEL.ROI_MASK_HEAD` to `model.mask`."""
    mask = settings.part("ROI_MASK_HEAD")
    if mask.get("NAME") != "MaskRCNNConvUpsampleHead":
        raise ConfigError(
            f"MODEL.ROI_MASK_HEAD.NAME {mask.get('NAME')} has no counterpart in Chordate; "
            f"MaskRCNNConvUpsampleHead has one"
        )
    pooling = (
        {} if shares_trunk else _pooling(mask) | _levels(settings, settings.part("ROI_HEADS").get("IN_FEATURES"), 4)
    )
    mask.ignore("POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO", "POOLER_TYPE")
    return {
        "type": "MaskHead",
        **pooling,
        "convs": mask.get("NUM_CONV"),
        "channels": mask.get("CONV_DIM"),
        "norm": norm_name(mask, "NORM"),
        "class_agnostic": mask.get("CLS_AGNOSTIC_MASK"),
    }


def keypoint_head(settings: Keys) -> dict[str, Any]:
    """Convert `MODEL.ROI_KEYPOINT_HEAD` to `model.keypoint`."""
    head = settings.part("ROI_KEYPOINT_HEAD")
    head.expect("NAME", "KRCNNConvDeconvUpsampleHead", reason="KeypointHead instead")
    head.expect("MIN_KEYPOINTS_PER_IMAGE", 1, reason="images without keypoints are left out", effect="data")
    reason = "the loss is the mean over the labeled keypoints"
    head.expect("NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS", True, reason=reason, effect="training")
    head.expect("NUM_KEYPOINTS", 17, reason="the keypoints of the training dataset, 17 in COCO")
    widths = list(head.get("CONV_DIMS"))
    if len(set(widths)) > 1:
        head.lose("CONV_DIMS", f"all convolutions have {widths[0]} channels")
    return {
        "type": "KeypointHead",
        **_pooling(head),
        **_levels(settings, settings.part("ROI_HEADS").get("IN_FEATURES"), 4),
        "convs": len(widths),
        "channels": widths[0] if widths else 512,
        "loss_weight": head.get("LOSS_WEIGHT"),
    }


def retina_head(settings: Keys, detections_per_image: int) -> dict[str, Any]:
    """Convert `MODEL.RETINANET` to `model.head`."""
    retina = settings.part("RETINANET")
    retina.ignore("NUM_CLASSES")
    retina.expect("IOU_LABELS", [0, -1, 1], reason="labels are negative, ignored, positive", effect="training")
    retina.expect("PRIOR_PROB", 0.01, reason="the initial probability is 0.01", effect="training")
    retina.expect("FOCAL_LOSS_GAMMA", 2.0, reason="gamma is 2", effect="training")
    retina.expect("FOCAL_LOSS_ALPHA", 0.25, reason="alpha is 0.25", effect="training")
    retina.expect("BBOX_REG_WEIGHTS", [1.0] * 4, reason="box deltas have weights of 1")
    return {
        "type": "RetinaHead",
        **_levels(settings, retina.get("IN_FEATURES"), 5),
        "anchors": _anchors(settings, retina.get("IN_FEATURES"), RETINA_SIZES),
        "convs": retina.get("NUM_CONVS"),
        "norm": norm_name(retina, "NORM"),
        "iou_thresholds": list(retina.get("IOU_THRESHOLDS")),
        **_box_loss(retina, "SMOOTH_L1_LOSS_BETA"),
        "score_threshold": retina.get("SCORE_THRESH_TEST"),
        "topk": retina.get("TOPK_CANDIDATES_TEST"),
        "nms_threshold": retina.get("NMS_THRESH_TEST"),
        "detections_per_image": detections_per_image,
    }


def semantic_head(settings: Keys) -> dict[str, Any]:
    """Convert `MODEL.SEM_SEG_HEAD` to `model.semantic`, or to `model.head` of a semantic segmenter."""
    head = settings.part("SEM_SEG_HEAD")
    name = head.get("NAME")
    head.expect("IGNORE_VALUE", 255, reason="the dataset says which labels are ignored", effect="data")
    if name != "DeepLabV3Head":
        head.expect("COMMON_STRIDE", 4, reason="the logits have stride 4")
    head.ignore("COMMON_STRIDE", "NUM_CLASSES", "IN_FEATURES", "PROJECT_FEATURES")
    loss: dict[str, Any] = {"type": "CrossEntropy", "loss_weight": head.get("LOSS_WEIGHT")}
    if name == "SemSegFPNHead":
        return {
            "type": "SemanticFPNHead",
            **_levels(settings, head.get("IN_FEATURES"), 4),
            "channels": head.get("CONVS_DIM"),
            "norm": norm_name(head, "NORM"),
            "losses": [loss],
        }
    if name not in ("DeepLabV3Head", "DeepLabV3PlusHead"):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.NAME {name} has no counterpart in Chordate; SemSegFPNHead, DeepLabV3Head and "
            f"DeepLabV3PlusHead have one"
        )
    if head.get("LOSS_TYPE") == "hard_pixel_mining":
        loss |= {"hard_fraction": HARD_FRACTION, "count_ignored": True}
    arguments: dict[str, Any] = {
        "type": name,
        "rates": list(head.get("ASPP_DILATIONS")),
        "channels": head.get("ASPP_CHANNELS"),
        "separable": head.get("USE_DEPTHWISE_SEPARABLE_CONV"),
        "norm": norm_name(head, "NORM"),
        "aspp_dropout": head.get("ASPP_DROPOUT"),
        "pooling_norm": False,
        "losses": [loss],
    }
    if name == "DeepLabV3PlusHead":
        arguments["low_channels"] = head.get("PROJECT_CHANNELS")[0]
        head.expect("PROJECT_FEATURES", ["res2"], reason="the decoder reads res2")
        head.expect("CONVS_DIM", head.get("ASPP_CHANNELS"), reason="the decoder has as many channels as ASPP")
        reason = "the decoder has two 3×3 convolutions, not one of 5×5"
        head.expect("USE_DEPTHWISE_SEPARABLE_CONV", False, reason=reason)
    else:
        head.ignore("CONVS_DIM", "PROJECT_CHANNELS")
        arguments["final_conv"] = False
    return arguments


def _anchors(settings: Keys, levels: list[str], default: Sequence[float]) -> dict[str, Any]:
    anchors = settings.part("ANCHOR_GENERATOR")
    anchors.expect("NAME", "DefaultAnchorGenerator", reason="AnchorGenerator instead")
    anchors.expect("OFFSET", 0.0, reason="anchors are centered at the top left corner of a cell")
    anchors.ignore("ANGLES")
    sizes, ratios = (_per_level(anchors.get(key)) for key in ("SIZES", "ASPECT_RATIOS"))
    if any(level != ratios[0] for level in ratios):
        anchors.lose("ASPECT_RATIOS", "all levels have the ratios of the first one")
    sizes = sizes * len(levels) if len(sizes) == 1 else sizes
    if len(sizes) != len(levels):
        raise ConfigError(f"MODEL.ANCHOR_GENERATOR.SIZES must have a list for each of {', '.join(levels)}, got {sizes}")
    strides = [2 ** int(level[-1]) for level in levels]
    return anchor_arguments(sizes, strides, ratios[0], default)


def _per_level(values: Sequence[Any]) -> list[list[float]]:
    """A list of numbers for each level; a single list, of numbers, is that of all levels."""
    return [list(level) for level in values] if isinstance(values[0], list | tuple) else [list(values)]


def _levels(settings: Keys, features: list[str], default: int) -> dict[str, Any]:
    """The argument `levels` of a head; an empty dict if the head reads its default feature maps, or without an FPN.

    Args:
        features: Detectron2's names of the feature maps that the head reads.
        default: number of FPN levels, from the finest, that the head reads by default.
    """
    names = [str(name).replace("res", "c") for name in features]
    inputs = settings.part("FPN").get("IN_FEATURES")
    first = int(str(inputs[0])[-1]) if inputs else 0
    if not inputs or names == [f"p{number}" for number in range(first, first + default)]:
        return {}
    return {"levels": names}


def _pooling(head: Keys) -> dict[str, Any]:
    head.expect("POOLER_TYPE", "ROIAlignV2", "ROIAlign", reason="RoIAlign instead")
    return {
        "resolution": head.get("POOLER_RESOLUTION"),
        "sampling_ratio": head.get("POOLER_SAMPLING_RATIO"),
        "aligned": head.get("POOLER_TYPE") != "ROIAlign",
    }


def _box_loss(head: Keys, beta: str) -> dict[str, Any]:
    head.expect("BBOX_REG_LOSS_TYPE", "smooth_l1", "giou", reason="smooth L1 instead", effect="training")
    kind = head.get("BBOX_REG_LOSS_TYPE")
    return {
        "box_loss": kind if kind == "giou" else "smooth_l1",
        "smooth_l1_beta": head.get(beta),
        "box_loss_weight": head.get("BBOX_REG_LOSS_WEIGHT") if "BBOX_REG_LOSS_WEIGHT" in head.defaults else 1.0,
    }
