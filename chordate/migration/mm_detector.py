"""Converts the detectors of MMDetection configs."""

from __future__ import annotations

from typing import Any

from chordate.allowed_values import format_value
from chordate.errors import ConfigError
from chordate.migration.anchor_sizes import FPN_SIZES, RETINA_SIZES, anchor_arguments
from chordate.migration.config_conversion import Keys
from chordate.migration.mm_backbone import (
    backbone_part,
    box_loss_part,
    feature_maps,
    norm_setting,
    plain_convolutions,
    preprocess_part,
)
from chordate.migration.mm_regions import plain_iou, region_heads

DETECTORS = {  # types of models -> the packaged configs of the same type
    "FasterRCNN": "faster-rcnn_r50_fpn_1x_coco",
    "MaskRCNN": "mask-rcnn_r50_fpn_1x_coco",
    "CascadeRCNN": "cascade-rcnn_r50_fpn_1x_coco",
    "RetinaNet": "retinanet_r50_fpn_1x_coco",
    "PanopticFPN": "panoptic-fpn_r50_fpn_1x_coco",
}
UNIT_CODER = [1.0, 1.0, 1.0, 1.0]


def detector(cfg: Keys) -> dict[str, Any]:
    """Convert the section `model` of an MMDetection config to Chordate's.

    Raises:
        ConfigError: Chordate has no such model.
    """
    model = cfg.part("model")
    kind = model.get("type")
    if kind not in DETECTORS:
        raise ConfigError(f"model.type {kind} has no counterpart in Chordate; these have one: {', '.join(DETECTORS)}")
    model.ignore("init_cfg")
    preprocess = model if "data_preprocessor" in model else cfg
    normalize, size_divisor = preprocess_part(preprocess.part("data_preprocessor"))
    cfg.ignore("data_preprocessor")
    backbone = backbone_part(
        model.part("backbone"),
        norm_eval=True,
        contract=False,
        start=DETECTORS[kind],
        pretrained=model.get("pretrained", None),
    )
    part: dict[str, Any] = {"backbone": backbone, "preprocess": normalize, "size_divisor": size_divisor}
    if "neck" in model:
        part["neck"] = fpn_part(model.part("neck"), feature_maps(model.part("backbone")))
    else:
        part["neck"] = None
        shares = "shared_head" in model.part("roi_head")
        backbone["out"] = ["c4", "c5"] if shares else feature_maps(model.part("backbone"))
    if kind == "RetinaNet":
        return {"type": "OneStageDetector", **part, "head": _retina_head(model)}
    return {"type": "TwoStageDetector", **part, "rpn": _rpn_head(model), **region_heads(model, kind)}


def fpn_part(cfg: Keys, maps: list[str]) -> dict[str, Any]:
    """Convert MMDetection's FPN to Chordate's `model.neck`.

    Args:
        cfg: the section `neck`.
        maps: names of the feature maps that the backbone outputs.

    Raises:
        ConfigError: Chordate has no such neck, or it reads more feature maps than there are.
    """
    if cfg.get("type") != "FPN":
        raise ConfigError(f"model.neck.type {cfg.get('type')} has no counterpart in Chordate; FPN has one")
    start, widths = cfg.get("start_level", 0), cfg.get("in_channels")
    cfg.expect("end_level", -1, len(widths) - 1, reason="all levels from start_level on are used")
    if not start < len(widths) <= len(maps):
        raise ConfigError(
            f"{cfg.path} must read some of the {len(maps)} maps of the backbone, got "
            f"in_channels={format_value(widths)}, start_level={start}"
        )
    names = maps[start : len(widths)]
    neck: dict[str, Any] = {"type": "FPN", "channels": cfg.get("out_channels"), "norm": norm_setting(cfg)}
    if names != ["c2", "c3", "c4", "c5"]:
        neck["inputs"] = names
    extra, count = cfg.get("add_extra_convs", False), cfg.get("num_outs") - len(names)
    extra = "on_input" if extra is True else extra
    if not count:
        neck["extra"] = None
    elif extra in ("on_input", "on_output"):
        neck["extra"] = names[-1] if extra == "on_input" else names[-1].replace("c", "p")
        if count != 2:
            cfg.lose("num_outs", "the pyramid has 2 extra levels")
        neck["extra_relu"] = cfg.get("relu_before_extra_convs", False)
    elif extra:
        cfg.lose("add_extra_convs", "extra levels are computed from the last level")
        neck["extra"] = names[-1].replace("c", "p")
    else:
        neck["extra"] = "pool"
        if count != 1:
            cfg.lose("num_outs", "the pyramid has 1 extra level")
    cfg.ignore("relu_before_extra_convs", "in_channels", "init_cfg", "num_outs")
    cfg.expect("no_norm_on_lateral", False, reason="lateral convolutions have the norm too")
    plain_convolutions(cfg)
    cfg.expect("act_cfg", None, reason="the pyramid has no activations")
    cfg.expect("upsample_cfg", {"mode": "nearest"}, reason="nearest neighbors are repeated")
    return neck


def _rpn_head(model: Keys) -> dict[str, Any]:
    head, train, test = model.part("rpn_head"), model.part("train_cfg"), model.part("test_cfg").part("rpn")
    if head.get("type") != "RPNHead":
        raise ConfigError(f"model.rpn_head.type {head.get('type')} has no counterpart in Chordate; RPNHead has one")
    head.expect("feat_channels", head.get("in_channels"), reason="convolutions keep the number of channels")
    loss = head.part("loss_cls")
    loss.expect("type", "CrossEntropyLoss", reason="cross-entropy of the objectness", effect="training")
    if loss.values and not loss.get("use_sigmoid", False):
        loss.lose("use_sigmoid", "the objectness is a sigmoid's")
    loss.ignore("use_sigmoid")
    loss.expect("loss_weight", 1.0, reason="the objectness loss has weight 1", effect="training")
    assigner, sampler = train.part("rpn").part("assigner"), train.part("rpn").part("sampler")
    proposals = train.part("rpn_proposal")
    arguments = {
        "type": "RPNHead",
        "anchors": _anchors(head, "anchor_generator", FPN_SIZES),
        "convs": head.get("num_convs", 1),
        "batch_size_per_image": sampler.get_or_ours("num"),
        "positive_fraction": sampler.get_or_ours("pos_fraction"),
        "iou_thresholds": _anchor_matching(train.part("rpn"), assigner),
        "low_quality_iou": assigner.get("min_pos_iou", 0.0) if assigner.values else None,
        "pre_nms_topk": [proposals.get_or_ours("nms_pre"), test.get_or_ours("nms_pre", "predictions")],
        "post_nms_topk": [proposals.get_or_ours("max_per_img"), test.get_or_ours("max_per_img", "predictions")],
        "nms_threshold": test.part("nms").get_or_ours("iou_threshold", "predictions"),
        **box_loss_part(head, "loss_bbox", head.get("reg_decoded_bbox", False)),
    }
    for nms in (test.part("nms"), proposals.part("nms")):
        nms.expect("type", "nms", reason="plain NMS")
    if "nms" in proposals:
        threshold = arguments["nms_threshold"]
        proposals.part("nms").expect("iou_threshold", threshold, reason="as in testing", effect="training")
    sampler.expect("type", "RandomSampler", reason="anchors are sampled at random", effect="training")
    sampler.expect("neg_pos_ub", -1, reason="negatives fill the batch", effect="training")
    sampler.expect("add_gt_as_proposals", False, reason="objects are no anchors", effect="training")
    for part in (proposals, test):
        part.expect("min_bbox_size", 0, reason="boxes are dropped below 0.001 px")
        part.ignore("nms_across_levels", "nms_post", "max_num")
    head.ignore("in_channels", "init_cfg")
    return arguments


def _retina_head(model: Keys) -> dict[str, Any]:
    head, train, test = model.part("bbox_head"), model.part("train_cfg"), model.part("test_cfg")
    if head.get("type") != "RetinaHead":
        raise ConfigError(f"model.bbox_head.type {head.get('type')} has no counterpart in Chordate; RetinaHead has one")
    head.expect("feat_channels", head.get("in_channels"), reason="convolutions keep the number of channels")
    loss = head.part("loss_cls")
    loss.expect("type", "FocalLoss", reason="focal loss", effect="training")
    loss.expect("use_sigmoid", True, reason="classes are independent")
    for key, value in (("gamma", 2.0), ("alpha", 0.25), ("loss_weight", 1.0)):
        loss.expect(key, value, reason=f"{key} is {value}", effect="training")
    train.part("sampler").expect("type", "PseudoSampler", reason="all anchors count", effect="training")
    test.part("nms").expect("type", "nms", reason="plain NMS")
    test.expect("min_bbox_size", 0, reason="boxes of any size are kept")
    head.ignore("num_classes", "in_channels", "init_cfg")
    assigner = train.part("assigner")
    assigner.expect("min_pos_iou", 0.0, reason="the best anchors of an object match it at any IoU", effect="training")
    return {
        "type": "RetinaHead",
        "anchors": _anchors(head, "anchor_generator", RETINA_SIZES),
        "convs": head.get("stacked_convs", 4),
        "norm": norm_setting(head),
        "iou_thresholds": _anchor_matching(train, assigner),
        **box_loss_part(head, "loss_bbox", head.get("reg_decoded_bbox", False)),
        "score_threshold": test.get_or_ours("score_thr", "predictions"),
        "topk": test.get_or_ours("nms_pre", "predictions"),
        "nms_threshold": test.part("nms").get_or_ours("iou_threshold", "predictions"),
        "detections_per_image": test.get_or_ours("max_per_img", "predictions"),
    }


def _anchors(head: Keys, key: str, default: tuple[float, ...]) -> dict[str, Any]:
    generator = head.part(key)
    if generator.get("type", "AnchorGenerator") != "AnchorGenerator":
        generator.lose("type", "AnchorGenerator instead")
    generator.expect("center_offset", 0.0, 0, reason="anchors are centered at the top left corner of a cell")
    generator.expect("centers", None, reason="anchors are centered at the top left corner of a cell")
    generator.ignore("scale_major")
    strides, octaves = generator.get("strides"), generator.get("scales_per_octave", None)
    scales = list(generator.get("scales", None) or [])
    if octaves:
        base = generator.get("octave_base_scale")
        scales = [base * 2 ** (number / octaves) for number in range(octaves)]
    bases = generator.get("base_sizes", None) or strides
    if len(bases) != len(strides):
        raise ConfigError(f"{generator.path}.base_sizes must have a size for each of the strides, got {bases}")
    sizes = [[scale * base for scale in scales] for base in bases]
    coder = head.part("bbox_coder")
    coder.expect("type", "DeltaXYWHBBoxCoder", reason="Faster R-CNN's box encoding")
    coder.expect("target_means", [0.0] * 4, reason="deltas have no offset")
    coder.expect("target_stds", UNIT_CODER, reason="deltas are not scaled")
    coder.expect("clip_border", True, reason="boxes are clipped to the image")
    return anchor_arguments(sizes, strides, generator.get("ratios"), default)


def _anchor_matching(train: Keys, assigner: Keys) -> list[float | None]:
    """(lower, upper) IoU thresholds of the anchors' assigner; None if missing."""
    assigner.expect("type", "MaxIoUAssigner", reason="anchors are matched by IoU", effect="training")
    reason = "the best anchors of an object always match it"
    assigner.expect("match_low_quality", True, reason=reason, effect="training")
    assigner.expect("ignore_iof_thr", -1, reason="crowds are no negatives", effect="training")
    plain_iou(assigner)
    reason = "anchors that cross the border are used"
    if train.get("allowed_border", -1) >= 0:
        train.lose("allowed_border", reason, "training")
    train.expect("pos_weight", -1, reason="positives and negatives have weight 1", effect="training")
    train.ignore("debug")
    return [assigner.get_or_ours("neg_iou_thr"), assigner.get_or_ours("pos_iou_thr")]
