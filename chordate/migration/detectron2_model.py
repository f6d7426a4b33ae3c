"""Converts the section `MODEL` of a Detectron2 config to the section `model` of a Chordate config."""

from __future__ import annotations

from typing import Any

from chordate.errors import ConfigError
from chordate.migration.config_conversion import Keys
from chordate.migration.detectron2_heads import box_head, keypoint_head, mask_head, retina_head, rpn_head, semantic_head
from chordate.migration.detectron2_norms import norm_name
from chordate.migration.resnet_names import resnet_part
from chordate.weights.checkpoint_sources import DETECTRON2_ZOO

# URLs of Detectron2's weights `catalog://ImageNetPretrained/…` (its checkpoint/catalog.py).
CATALOG = {
    "FAIR/R-50-GN": "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/47261647/R-50-GN.pkl",
    "FAIR/R-101-GN": "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/47592356/R-101-GN.pkl",
    "FAIR/X-152-32x8d-IN5k": (
        "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/25093814/X-152-32x8d-IN5k.pkl"
    ),
}
BACKBONES = {  # BACKBONE.NAME -> extra FPN levels: "pool" (max pooling), "last" (from the last input), "none" (no FPN)
    "build_resnet_backbone": "none",
    "build_resnet_deeplab_backbone": "none",
    "build_resnet_fpn_backbone": "pool",
    "build_retinanet_resnet_fpn_backbone": "last",
}
ARCHITECTURES = ("GeneralizedRCNN", "PanopticFPN", "RetinaNet", "SemanticSegmentor")


def detectron2_model(cfg: Keys) -> dict[str, Any]:
    """Convert `MODEL`, and the settings of `INPUT` and `TEST` that concern the model, to the section `model`.

    Raises:
        ConfigError: Chordate has no such model.
    """
    settings = cfg.part("MODEL")
    kind = settings.get("META_ARCHITECTURE")
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"MODEL.META_ARCHITECTURE {kind} has no counterpart in Chordate; these have one: {known}")
    settings.ignore("DEVICE", "LOAD_PROPOSALS")
    neck, size_divisor = _neck(settings)
    model: dict[str, Any] = {"backbone": _backbone(settings), "neck": neck, "size_divisor": size_divisor}
    _check_weights(settings, model["backbone"])
    mean, std = settings.get("PIXEL_MEAN"), settings.get("PIXEL_STD")
    model["preprocess"] = {"mean": list(mean), "std": list(std), "bgr": cfg.part("INPUT").get("FORMAT") == "BGR"}
    if cfg.part("INPUT").get("FORMAT") not in ("BGR", "RGB"):
        cfg.part("INPUT").lose("FORMAT", "images are read as RGB")
    topk = cfg.part("TEST").get("DETECTIONS_PER_IMAGE")
    if kind == "RetinaNet":
        return {"type": "OneStageDetector", **model, "head": retina_head(settings, topk)}
    if kind == "SemanticSegmentor":
        _skip_instances(settings)
        return {"type": "SemanticSegmenter", **model, **_semantic(settings, cfg, model["backbone"])}
    return {"type": "TwoStageDetector", **model, **_instances(settings, kind, topk)}


def _instances(settings: Keys, kind: str, detections_per_image: int) -> dict[str, Any]:
    """The heads of a TwoStageDetector."""
    if settings.part("PROPOSAL_GENERATOR").get("NAME") != "RPN":
        name = settings.part("PROPOSAL_GENERATOR").get("NAME")
        raise ConfigError(f"MODEL.PROPOSAL_GENERATOR.NAME {name} has no counterpart in Chordate; RPN has one")
    settings.part("PROPOSAL_GENERATOR").expect("MIN_SIZE", 0, reason="boxes are dropped below 0.001 px")
    shares_trunk = settings.part("ROI_HEADS").get("NAME") == "Res5ROIHeads"
    parts: dict[str, Any] = {"rpn": rpn_head(settings), "box": box_head(settings, detections_per_image)}
    if shares_trunk:
        parts["trunk"] = "c5"
    if settings.get("MASK_ON"):
        parts["mask"] = mask_head(settings, shares_trunk)
    else:
        settings.ignore("ROI_MASK_HEAD")
    if settings.get("KEYPOINT_ON"):
        parts["keypoint"] = keypoint_head(settings)
    if kind == "PanopticFPN":
        combine = settings.part("PANOPTIC_FPN").part("COMBINE")
        combine.expect("ENABLED", True, reason="things and stuff are merged")
        reason = "all instance losses have weight 1"
        settings.part("PANOPTIC_FPN").expect("INSTANCE_LOSS_WEIGHT", 1.0, reason=reason, effect="training")
        parts["semantic"] = semantic_head(settings)
        parts["merge"] = {
            "score_threshold": combine.get("INSTANCES_CONFIDENCE_THRESH"),
            "overlap_threshold": combine.get("OVERLAP_THRESH"),
            "stuff_area": combine.get("STUFF_AREA_LIMIT"),
        }
    return parts


def _semantic(settings: Keys, cfg: Keys, backbone: dict[str, Any]) -> dict[str, Any]:
    """The head of a SemanticSegmenter. For a DeepLab head, sets the backbone's `out` to the feature maps it reads."""
    head = semantic_head(settings)
    if head["type"] == "DeepLabV3PlusHead":
        backbone["out"] = ["c2", "c5"]
    elif head["type"] == "DeepLabV3Head":
        backbone["out"] = ["c5"]
    crop = cfg.part("INPUT").part("CROP")
    if head["type"] != "SemanticFPNHead" and crop.get("ENABLED"):
        # In Detectron2, the image pooling of ASPP averages over windows of the training crop's size.
        head["pooling_size"] = [side // backbone.get("output_stride", 32) for side in crop.get("SIZE")]
    return {"head": head}


def _skip_instances(settings: Keys) -> None:
    """Ignore the settings that a semantic segmenter inherits from a base config for detectors."""
    settings.ignore("RPN", "ROI_HEADS", "ROI_BOX_HEAD", "ROI_MASK_HEAD", "ANCHOR_GENERATOR", "MASK_ON")


def _neck(settings: Keys) -> tuple[dict[str, Any] | None, int]:
    """The neck, and the size divisor: Detectron2 pads height and width to multiples of it."""
    name = settings.part("BACKBONE").get("NAME")
    if name not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise ConfigError(f"MODEL.BACKBONE.NAME {name} has no counterpart in Chordate; these have one: {known}")
    fpn = settings.part("FPN")
    if BACKBONES[name] == "none":
        settings.ignore("FPN")
        return None, 1
    fpn.expect("FUSE_TYPE", "sum", reason="levels are summed")
    inputs = [_level(feature) for feature in fpn.get("IN_FEATURES")]
    if not inputs:
        raise ConfigError(f"MODEL.FPN.IN_FEATURES is empty, but MODEL.BACKBONE.NAME {name} has an FPN; set it")
    norm = norm_name(fpn, "NORM")
    neck = {"type": "FPN", "channels": fpn.get("OUT_CHANNELS"), "norm": norm}
    if inputs != ["c2", "c3", "c4", "c5"]:
        neck["inputs"] = inputs
    neck["extra"] = "pool" if BACKBONES[name] == "pool" else inputs[-1]
    return neck, 2 ** int(inputs[-1][1:])


def _backbone(settings: Keys) -> dict[str, Any]:
    resnets = settings.part("RESNETS")
    deeplab = settings.part("BACKBONE").get("NAME") == "build_resnet_deeplab_backbone"
    deep = deeplab and resnets.get("STEM_TYPE") == "deeplab"
    part = resnet_part(
        resnets.get("DEPTH"),
        groups=resnets.get("NUM_GROUPS"),
        group_width=resnets.get("WIDTH_PER_GROUP"),
        deep_stem=deep,
        stem_channels=resnets.get("STEM_OUT_CHANNELS"),
        caffe=resnets.get("STRIDE_IN_1X1"),
    )
    norm = norm_name(resnets, "NORM")
    freeze_at = settings.part("BACKBONE").get("FREEZE_AT")
    part |= {"norm": norm, "frozen_stages": freeze_at - 1}
    if "FPN" not in str(settings.part("BACKBONE").get("NAME")).upper():
        # In the C4 layout, the backbone also builds stage c5, which the heads apply to RoI features.
        shares = settings.part("ROI_HEADS").get("NAME") == "Res5ROIHeads"
        part["out"] = ["c4", "c5"] if shares else [_level(name) for name in resnets.get("OUT_FEATURES")]
    if resnets.get("NUM_GROUPS") == 1:
        resnets.expect("WIDTH_PER_GROUP", 64, reason="blocks have the paper's width")
    resnets.ignore("OUT_FEATURES", "DEFORM_MODULATED", "DEFORM_NUM_GROUPS")
    resnets.expect("RES2_OUT_CHANNELS", 256 if resnets.get("DEPTH") >= 50 else 64, reason="c2 has the paper's width")
    resnets.expect(
        "DEFORM_ON_PER_STAGE", [False] * 4, reason="deformable convolutions are not supported; plain 3×3 convolutions"
    )
    if resnets.get("RES5_DILATION") == 2:
        part["output_stride"] = 16
        if deeplab:
            part["multi_grid"] = list(resnets.get("RES5_MULTI_GRID"))
        else:
            part["dilations"] = [1, 1, 1, 2]
    else:
        resnets.expect("RES5_DILATION", 1, reason="the output stride is 32")
    resnets.ignore("RES5_MULTI_GRID")
    resnets.expect("RES4_DILATION", 1, reason="c4 is not dilated")
    return part


def _check_weights(settings: Keys, backbone: dict[str, Any]) -> None:
    """Set `pretrained` of the backbone if `MODEL.WEIGHTS` are those of a classifier."""
    weights = str(settings.get("WEIGHTS") or "")
    name = weights.partition("://")[2] if weights.startswith(("detectron2://", "catalog://")) else ""
    if weights.startswith("catalog://"):
        address = CATALOG.get(name.removeprefix("ImageNetPretrained/"))
        if address is None:
            settings.lose("WEIGHTS", "unknown address; set model.backbone.pretrained", "training")
        else:
            backbone["pretrained"] = address
    elif name.startswith(("ImageNetPretrained/", "DeepLab/")):
        backbone["pretrained"] = DETECTRON2_ZOO + name


def whole_model_weights(settings: Keys) -> str | None:
    """Path or URL of the checkpoint `MODEL.WEIGHTS`; None if it is missing, or contains only a backbone."""
    weights = str(settings.get("WEIGHTS") or "")
    name = weights.removeprefix("detectron2://")
    if not weights or weights.startswith("catalog://") or name.startswith(("ImageNetPretrained/", "DeepLab/")):
        return None
    return DETECTRON2_ZOO + name if weights.startswith("detectron2://") else weights


def _level(feature: str) -> str:
    """The name of a feature map: `c5` for `res5`."""
    return str(feature).replace("res", "c").replace("stem", "c1")
