"""Converts the segmenters of MMSegmentation configs."""

from __future__ import annotations

from typing import Any

from chordate.errors import ConfigError
from chordate.migration.config_conversion import Keys
from chordate.migration.mm_backbone import backbone_part, feature_maps, norm_setting, preprocess_part
from chordate.migration.mm_detector import fpn_part

HEADS = {  # types of heads -> the packaged configs with the same head
    "FCNHead": "fcn_r50_d8_torchvision",
    "PSPHead": "pspnet_r50c_d8_80k_ade20k",
    "ASPPHead": "deeplabv3_r50c_d8_80k_ade20k",
    "DepthwiseSeparableASPPHead": "deeplabv3plus_r50c_d8_80k_ade20k",
    "FPNHead": "semantic-fpn_r50c_fpn_160k_ade20k",
}


def segmenter(cfg: Keys) -> dict[str, Any]:
    """Convert the section `model` of an MMSegmentation config to Chordate's.

    Raises:
        ConfigError: Chordate has no such model.
    """
    model = cfg.part("model")
    preprocess = model if "data_preprocessor" in model else cfg
    normalize, size_divisor = preprocess_part(preprocess.part("data_preprocessor"))
    cfg.ignore("data_preprocessor", "norm_cfg")
    decoder = model.part("decode_head")
    backbone = backbone_part(
        model.part("backbone"),
        norm_eval=False,
        contract=True,
        start=HEADS[_head_type(decoder)],
        pretrained=model.get("pretrained", None),
    )
    part: dict[str, Any] = {"type": "SemanticSegmenter", "backbone": backbone, "preprocess": normalize}
    part["size_divisor"] = size_divisor
    maps = feature_maps(model.part("backbone"))
    if "neck" in model:
        part["neck"] = fpn_part(model.part("neck"), maps)
        part["head"], used = _head(decoder, [name.replace("c", "p") for name in maps]), set(maps)
    else:
        part["head"], used = _head(decoder, maps), _levels(decoder, maps)
    auxiliary = model.parts("auxiliary_head")
    if auxiliary:
        aux = _head(auxiliary[0], maps)
        # In Chordate, the weight of the auxiliary loss is a setting of the model.
        weight = aux["losses"][0].pop("loss_weight", 1.0)
        part |= {"auxiliary": aux | {"level": _level(auxiliary[0], maps)}, "auxiliary_weight": weight}
        used |= _levels(auxiliary[0], maps)
    if len(auxiliary) > 1:
        model.lose("auxiliary_head", "one auxiliary head is supported, the first one", "training")
    backbone["out"] = [name for name in maps if name in used]
    test = model.part("test_cfg")
    if test.get("mode", "whole") == "slide":
        part["window"] = {key: _pair(test.get(theirs)) for key, theirs in (("size", "crop_size"), ("stride", "stride"))}
    test.ignore("crop_size", "stride")
    model.ignore("type", "train_cfg", "init_cfg", "pretrained")
    return part


def _head(head: Keys, maps: list[str]) -> dict[str, Any]:
    kind = _head_type(head)
    head.expect("align_corners", False, reason="maps are resized with align_corners=False")
    head.expect("input_transform", None, "multiple_select", reason="maps are not concatenated")
    head.expect("conv_cfg", None, reason="plain convolutions")
    head.expect("out_channels", None, head.get("num_classes"), reason="one output per class")
    head.expect("ignore_index", 255, reason="the dataset says which labels are ignored", effect="data")
    head.expect("act_cfg", {"type": "ReLU"}, reason="ReLU")
    head.ignore("num_classes", "init_cfg", "in_index", "input_transform")
    if "sampler" in head:
        head.part("sampler").ignore("min_kept", "thresh")
        head.part("sampler").lose("type", "all pixels count; CrossEntropy(hard_fraction=…) is similar", "training")
    channels = head.get("channels")
    shared: dict[str, Any] = {
        "norm": norm_setting(head),
        "dropout": head.get("dropout_ratio", 0.1),
        "losses": _losses(head),
    }
    level = maps[-1]
    reads = {} if kind == "FPNHead" or _level(head, maps) == level else {"level": _level(head, maps)}
    if kind == "FPNHead":
        head.ignore("in_channels", "feature_strides")
        return {"type": "SemanticFPNHead", "channels": channels, **shared}
    if kind == "FCNHead":
        head.expect("kernel_size", 3, reason="3×3 convolutions")
        head.ignore("in_channels")
        convs = head.get("num_convs", 2)
        own = {"convs": convs, "dilation": head.get("dilation", 1), "concatenate": head.get("concat_input", True)}
        width = {} if convs and channels * 4 == head.get("in_channels") else {"channels": channels}
        return {"type": "FCNHead", **reads, **own, **width, **shared}
    if kind == "PSPHead":
        grids = list(head.get("pool_scales", (1, 2, 3, 6)))
        if channels * len(grids) != head.get("in_channels"):
            head.lose("channels", f"the pooled maps have {head.get('in_channels') // len(grids)} channels")
        head.ignore("in_channels")
        return {"type": "PSPHead", **reads, "grids": grids, "channels": channels, **shared}
    first, *rates = head.get("dilations", (1, 6, 12, 18))
    if first != 1:
        head.lose("dilations", "the first branch of ASPP is a 1×1 convolution")
    head.ignore("in_channels")
    aspp = {**reads, "rates": rates, "channels": channels, "project_kernel": 3, "aspp_dropout": 0.0, **shared}
    if kind == "ASPPHead":
        return {"type": "DeepLabV3Head", **aspp}
    head.ignore("c1_in_channels")
    return {"type": "DeepLabV3PlusHead", "low_channels": head.get("c1_channels"), **aspp}


def _head_type(head: Keys) -> str:
    kind: str = head.get("type")
    if kind not in HEADS:
        raise ConfigError(f"{head.path}.type {kind} has no counterpart in Chordate; these have one: {', '.join(HEADS)}")
    return kind


def _level(head: Keys, maps: list[str]) -> str:
    index = head.get("in_index", -1)
    index = index if isinstance(index, int) else index[-1]
    if not -len(maps) <= index < len(maps):
        raise ConfigError(f"{head.path}.in_index must be below {len(maps)}, the number of feature maps, got {index}")
    return maps[index]


def _levels(head: Keys, maps: list[str]) -> set[str]:
    """The backbone's feature maps that a head reads."""
    low = {maps[0]} if head.get("type") == "DepthwiseSeparableASPPHead" else set()
    return {_level(head, maps)} | low


def _losses(head: Keys) -> list[dict[str, Any]]:
    losses = []
    for loss in head.parts("loss_decode"):
        kind = loss.get("type")
        converted: dict[str, Any] = {"type": "CrossEntropy", "loss_weight": loss.get("loss_weight", 1.0)}
        if kind == "DiceLoss":
            converted["type"] = "Dice"
            loss.lose("type", "Dice of the batch, not of each image", "training")
            loss.ignore("smooth", "exponent", "eps", "use_sigmoid", "naive_dice")
        elif kind == "CrossEntropyLoss":
            loss.expect("use_sigmoid", False, reason="softmax cross-entropy", effect="training")
            if "class_weight" in loss:
                converted["class_weights"] = list(loss.get("class_weight"))
            if not loss.get("avg_non_ignore", False):
                converted["count_ignored"] = True
            loss.ignore("class_weight")
        else:
            loss.lose("type", "CrossEntropy instead", "training")
        loss.expect("reduction", "mean", reason="the mean over the pixels", effect="training")
        loss.ignore("loss_name")
        losses.append(converted)
    return losses or [{"type": "CrossEntropy", "count_ignored": True}]


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
