"""Converts the RoI heads (`roi_head`) of MMDetection configs, and the semantic head of Panoptic FPN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from chordate.errors import ConfigError
from chordate.migration.config_conversion import Keys
from chordate.migration.mm_backbone import box_loss_part, norm_setting, plain_convolutions

FPN_STRIDES = [4, 8, 16, 32]
BOX_HEADS = {  # default numbers of shared convolutions and fully connected layers
    "Shared2FCBBoxHead": (0, 2),
    "Shared4Conv1FCBBoxHead": (4, 1),
    "ConvFCBBoxHead": (0, 0),
    "BBoxHead": (0, 0),
}


def region_heads(model: Keys, kind: str) -> dict[str, Any]:
    """`box`, `mask`, `trunk`, `semantic` and `merge` of a TwoStageDetector.

    Raises:
        ConfigError: Chordate has no such head.
    """
    rois = model.part("roi_head")
    parts: dict[str, Any] = {"box": _box(model)}
    shares = "shared_head" in rois
    if shares:
        parts["trunk"] = "c5"
        _shared_head(rois.part("shared_head"), model.part("backbone"))
    if "mask_head" in rois:
        parts["mask"] = _mask(model, shares)
    if kind == "PanopticFPN":
        parts |= _panoptic(model)
    rois.ignore("init_cfg")
    return parts


def _shared_head(head: Keys, backbone: Keys) -> None:
    """Report a head for all regions that is not the backbone's stage c5, with the settings of the other stages."""
    head.expect("type", "ResLayer", reason="stage c5 of the backbone")
    for key, default in (("depth", None), ("style", "pytorch"), ("norm_cfg", {"type": "BN", "requires_grad": True})):
        head.expect(key, backbone.values.get(key, default), reason="as in the backbone")
    for key, value in (("stage", 3), ("stride", 2), ("dilation", 1)):
        head.expect(key, value, reason=f"{key} is {value}")
    head.expect("norm_eval", True, reason="BatchNorm uses its running statistics", effect="training")
    head.expect("dcn", None, reason="deformable convolutions are not supported")
    head.ignore("init_cfg", "with_cp")


def _box(model: Keys) -> dict[str, Any]:
    rois = model.part("roi_head")
    kind = rois.get("type")
    if kind not in ("StandardRoIHead", "CascadeRoIHead"):
        raise ConfigError(f"model.roi_head.type {kind} has no counterpart; StandardRoIHead and CascadeRoIHead have one")
    heads = rois.parts("bbox_head", least=1)
    stages = [_stage(model, head, number) for number, head in enumerate(heads)]
    if kind == "StandardRoIHead":
        return {"type": "BoxHead", **stages[0]}
    own = ("iou_threshold", "box_weights")
    shared = [{key: value for key, value in stage.items() if key not in (*own, "class_agnostic")} for stage in stages]
    weights = list(rois.get("stage_loss_weights", [1.0] * len(stages)))
    if any(weight != 1 for weight in weights):
        rois.lose("stage_loss_weights", "the losses of all stages have weight 1", "training")
    if any(stage != shared[0] for stage in shared):
        rois.lose("bbox_head", "all stages have the settings of the first one")
    if not all(stage["class_agnostic"] for stage in stages):
        heads[0].lose("reg_class_agnostic", "the boxes of a cascade are class-agnostic")
    rois.ignore("num_stages")
    return {
        "type": "CascadeHead",
        "averaged": "logits",
        "iou_thresholds": [stage["iou_threshold"] for stage in stages],
        "box_weights": [stage["box_weights"] for stage in stages],
        "stage": shared[0],
    }


def _stage(model: Keys, head: Keys, number: int) -> dict[str, Any]:
    """The arguments of BoxHead for `head`, which is stage `number` of a cascade, or the only box head (0)."""
    kind = head.get("type")
    if kind not in BOX_HEADS:
        raise ConfigError(f"model.roi_head.bbox_head.type {kind} has no counterpart; {', '.join(BOX_HEADS)} have one")
    train = model.part("train_cfg").parts("rcnn", least=1)
    train_stage = train[min(number, len(train) - 1)]
    assigner, sampler = train_stage.part("assigner"), train_stage.part("sampler")
    test = model.part("test_cfg").part("rcnn")
    threshold = assigner.get_or_ours("pos_iou_thr")
    assigner.expect("type", "MaxIoUAssigner", reason="regions are matched by IoU", effect="training")
    assigner.expect("neg_iou_thr", threshold, reason="all other regions are negative", effect="training")
    assigner.expect("match_low_quality", False, reason="only the IoU counts", effect="training")
    assigner.expect("ignore_iof_thr", -1, reason="regions in crowds are negatives", effect="training")
    assigner.ignore("min_pos_iou")
    plain_iou(assigner)
    sampler.expect("type", "RandomSampler", reason="regions are sampled at random", effect="training")
    sampler.expect("neg_pos_ub", -1, reason="negatives fill the batch", effect="training")
    sampler.expect("add_gt_as_proposals", True, reason="the objects are among the regions", effect="training")
    train_stage.expect("pos_weight", -1, reason="positives and negatives have weight 1", effect="training")
    train_stage.ignore("debug", "mask_size")
    loss = head.part("loss_cls")
    loss.expect("type", "CrossEntropyLoss", reason="cross-entropy of the classes", effect="training")
    loss.expect("use_sigmoid", False, reason="classes are a softmax's")
    loss.expect("loss_weight", 1.0, reason="the class loss has weight 1", effect="training")
    coder = head.part("bbox_coder")
    coder.expect("type", "DeltaXYWHBBoxCoder", reason="Faster R-CNN's box encoding")
    coder.expect("target_means", [0.0] * 4, reason="deltas have no offset")
    coder.expect("clip_border", True, reason="boxes are clipped to the image")
    nms = test.part("nms")
    nms.expect("type", "nms", reason="plain NMS")
    nms.expect("class_agnostic", False, reason="NMS runs per class")
    nms.ignore("min_score", "method", "sigma")
    head.ignore("num_classes", "in_channels", "roi_feat_size", "with_avg_pool", "init_cfg")
    return {
        **pooling(model.part("roi_head"), "bbox_roi_extractor"),
        **({} if kind == "BBoxHead" else {"trunk": _trunk(head, *BOX_HEADS[kind])}),
        "class_agnostic": head.get("reg_class_agnostic", False),
        "batch_size_per_image": sampler.get_or_ours("num"),
        "positive_fraction": sampler.get_or_ours("pos_fraction"),
        "iou_threshold": threshold,
        "box_weights": [1 / std for std in coder.get("target_stds")],
        **box_loss_part(head, "loss_bbox", head.get("reg_decoded_bbox", False)),
        "score_threshold": test.get_or_ours("score_thr", "predictions"),
        "nms_threshold": nms.get_or_ours("iou_threshold", "predictions"),
        "detections_per_image": test.get_or_ours("max_per_img", "predictions"),
    }


def plain_iou(assigner: Keys) -> None:
    """Report an `iou_calculator` other than the plain IoU."""
    kinds = ({"type": "BboxOverlaps2D"}, {"type": "BboxOverlaps2D", "scale": 1.0})
    assigner.expect("iou_calculator", *kinds, reason="the plain IoU", effect="training")
    assigner.ignore("gpu_assign_thr")


def _trunk(head: Keys, convs: int, fcs: int) -> dict[str, Any]:
    for branch in ("num_cls_convs", "num_cls_fcs", "num_reg_convs", "num_reg_fcs"):
        head.expect(branch, 0, reason="classes and boxes share all layers")
    plain_convolutions(head)
    return {
        "type": "ConvFC",
        "convs": head.get("num_shared_convs", convs),
        "conv_channels": head.get("conv_out_channels", 256),
        "fcs": head.get("num_shared_fcs", fcs),
        "fc_channels": head.get("fc_out_channels", 1024),
        "norm": norm_setting(head),
    }


def _mask(model: Keys, shares: bool) -> dict[str, Any]:
    rois = model.part("roi_head")
    head = rois.parts("mask_head", least=1)[0]
    if head.get("type") != "FCNMaskHead":
        raise ConfigError(f"model.roi_head.mask_head.type {head.get('type')} has no counterpart; FCNMaskHead has one")
    is_cascade = rois.get("type") == "CascadeRoIHead"
    if is_cascade:
        rois.lose("mask_head", "all mask heads train on the regions of the first stage", "training")
    head.expect("upsample_cfg", None, {"type": "deconv", "scale_factor": 2}, reason="a deconvolution doubles the size")
    plain_convolutions(head)
    head.expect("conv_kernel_size", 3, reason="3×3 convolutions")
    loss = head.part("loss_mask")
    loss.expect("type", "CrossEntropyLoss", reason="binary cross-entropy of the pixels", effect="training")
    loss.ignore("use_mask")
    head.ignore("num_classes", "in_channels", "roi_feat_size", "init_cfg")
    test = model.part("test_cfg").part("rcnn")
    test.expect("mask_thr_binary", 0.5, reason="pixels with a probability of at least 0.5 belong to the mask")
    if shares:
        rois.ignore("mask_roi_extractor")
    own_pooling = (
        {} if shares else pooling(rois, "mask_roi_extractor" if "mask_roi_extractor" in rois else "bbox_roi_extractor")
    )
    settings = {
        **own_pooling,
        "convs": head.get("num_convs", 4),
        "channels": head.get("conv_out_channels", 256),
        "norm": norm_setting(head),
        "class_agnostic": head.get("class_agnostic", False),
        "loss_weight": loss.get("loss_weight", 1.0),
    }
    if is_cascade:
        return {"type": "CascadeMaskHead", "stages": rois.get("num_stages"), "stage": settings}
    return {"type": "MaskHead", **settings}


def pooling(rois: Keys, key: str) -> dict[str, Any]:
    """`resolution`, `sampling_ratio`, `aligned` and `levels` of a head, from the RoI extractor in the setting `key`."""
    extractor = rois.part(key)
    layer = extractor.part("roi_layer")
    extractor.expect("type", "SingleRoIExtractor", reason="each region is pooled from one level")
    extractor.expect("finest_scale", 56, reason="regions of 224 px are pooled from p4")
    layer.expect("type", "RoIAlign", reason="RoIAlign instead")
    extractor.ignore("out_channels")
    strides: Sequence[int] = list(extractor.get("featmap_strides"))
    levels = (
        {} if strides == FPN_STRIDES or len(strides) == 1 else {"levels": [f"p{int(math.log2(s))}" for s in strides]}
    )
    return {
        "resolution": layer.get("output_size"),
        "sampling_ratio": layer.get("sampling_ratio", 0),
        "aligned": layer.get("aligned", True),
        **levels,
    }


def _panoptic(model: Keys) -> dict[str, Any]:
    head, fusion = model.part("semantic_head"), model.part("panoptic_fusion_head")
    for part, kind in ((head, "PanopticFPNHead"), (fusion, "HeuristicFusionHead")):
        if part.get("type") != kind:
            raise ConfigError(f"{part.path}.type {part.get('type')} has no counterpart in Chordate; {kind} has one")
        part.ignore("num_things_classes", "num_stuff_classes", "num_classes", "in_channels", "init_cfg")
    head.expect("start_level", 0, reason="levels p2 … p5 are used")
    head.expect("end_level", 4, reason="levels p2 … p5 are used")
    head.expect("conv_cfg", None, reason="plain convolutions")
    loss = head.part("loss_seg")
    loss.expect("ignore_index", 255, reason="the dataset says which labels are ignored", effect="data")
    for key, count in (("num_things_classes", 80), ("num_stuff_classes", 53)):
        head.expect(key, count, reason=f"COCO has {count}, and so has the model trained on it")
    loss.expect("type", "CrossEntropyLoss", reason="cross-entropy of the classes", effect="training")
    merge = model.part("test_cfg").part("panoptic")
    return {
        "semantic": {
            "type": "SemanticFPNHead",
            "channels": head.get("inner_channels", 128),
            "norm": norm_setting(head),
            "losses": [
                {
                    "type": "CrossEntropy",
                    "loss_weight": loss.get("loss_weight", 1.0),
                    "count_ignored": not loss.get("avg_non_ignore", False),
                }
            ],
        },
        "merge": {
            "score_threshold": model.part("test_cfg").part("rcnn").get_or_ours("score_thr", "predictions"),
            "overlap_threshold": merge.get("mask_overlap", 0.5),
            "stuff_area": merge.get("stuff_area_limit", 4096),
        },
    }
