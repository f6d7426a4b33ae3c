"""Converts backbones, norms and preprocessing of MMDetection and MMSegmentation, and MMDetection's box losses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from chordate.allowed_values import format_value
from chordate.backbones.convnext import SIZES
from chordate.errors import ConfigError
from chordate.migration.config_conversion import Keys
from chordate.migration.mm_convnext import convnext_part
from chordate.migration.resnet_names import resnet_part
from chordate.weights.formats.openmmlab_config import OUTPUT_STRIDES

# Norm in OpenMMLab -> norm in Chordate, where `train.sync_bn` enables SyncBN.
NORMS = {"BN": "BN", "SyncBN": "BN", "MMSyncBN": "BN", "naiveSyncBN": "BN", "GN": "GN"}
RESNETS = ("ResNet", "ResNeXt", "ResNetV1c", "ResNetV1d")
# Backbones that are not converted -> a network of timm that is like one of them.
TIMM = {
    "SwinTransformer": "swin_tiny_patch4_window7_224",
    "RegNet": "regnetx_032",
    "HRNet": "hrnet_w32",
    "Res2Net": "res2net101_26w_4s",
    "ResNeSt": "resnest50d",
    "PyramidVisionTransformerV2": "pvt_v2_b2",
    "EfficientNet": "efficientnet_b3",
    "MobileNetV2": "mobilenetv2_100",
    "ConvNeXt": "convnext_xlarge",
}
IMPLIED = {32: (1, 1, 1, 1), 16: (1, 1, 1, 2), 8: (1, 1, 2, 4)}  # dilations that an output stride implies


def norm_setting(cfg: Keys, key: str = "norm_cfg", default: str | None = None, *, frozen: bool = False) -> Any:
    """Chordate's norm for `cfg[key]`, a dict such as `dict(type="BN")`; `default` if it is missing or None. Reports
    `requires_grad=False`, unless `frozen` says that the caller reads it."""
    if key not in cfg:
        cfg.ignore(key)
        return default
    norm = cfg.part(key)
    kind = norm.get("type", "BN")
    if not frozen:
        norm.expect("requires_grad", True, reason="the norm's weights are trained", effect="training")
    if kind not in NORMS:
        norm.lose("type", "unknown norm; BN instead")
        return "BN"
    groups = norm.get("num_groups", 32)
    eps = norm.get("eps", 1e-5)
    options: dict[str, Any] = {"groups": groups} if kind == "GN" and groups != 32 else {}
    if eps != 1e-5:
        options["eps"] = eps
    name = NORMS[kind]
    return {"type": name, **options} if options else name


def plain_convolutions(cfg: Keys) -> None:
    """Report `conv_cfg` of `cfg`, unless it is None. Loading folds the standardization of ConvWS into the weights."""
    settings = cfg.values.get("conv_cfg")
    if isinstance(settings, dict) and settings.get("type") == "ConvWS":
        cfg.lose("conv_cfg", "weights are standardized when they are loaded, not in training", "training")
    else:
        cfg.expect("conv_cfg", None, reason="plain convolutions")


def backbone_part(cfg: Keys, *, norm_eval: bool, contract: bool, start: str, pretrained: Any = None) -> dict[str, Any]:
    """Convert a ResNet, ResNeXt or ConvNeXt to Chordate's `model.backbone`.

    Args:
        cfg: the section `backbone`.
        norm_eval: the framework's default of `norm_eval`.
        contract: whether the framework's ResNet has `contract_dilation`.
        start: the packaged config to start from if the backbone is not converted, for the error message.
        pretrained: the setting `model.pretrained`, which is used unless `init_cfg` names a checkpoint.

    Raises:
        ConfigError: Chordate has no such backbone.
    """
    kind = cfg.get("type")
    if kind == "ConvNeXt" and cfg.values.get("arch", "tiny") in list(SIZES):
        return convnext_part(cfg)
    if kind == "UNet":
        raise ConfigError(
            "model.backbone.type UNet is not converted: Chordate has no such encoder; start from unet_r18_camvid, "
            "where U-Net's decoder is a neck on the feature maps of a backbone"
        )
    if kind not in RESNETS:
        network = f'"{TIMM[kind]}") or another network' if kind in TIMM else "…), any network"
        raise ConfigError(
            f"model.backbone.type {kind} is not converted; {', '.join(RESNETS)} and ConvNeXt (tiny … large) are; start "
            f'from {start} with model.backbone=dict(_delete_=True, type="TimmBackbone", model={network} of timm'
        )
    depth, groups = cfg.get("depth"), cfg.get("groups", 1) if kind == "ResNeXt" else 1
    part = resnet_part(
        depth,
        groups=groups,
        group_width=cfg.get("base_width", 4) if groups > 1 else 64,
        deep_stem=cfg.get("deep_stem", kind in ("ResNetV1c", "ResNetV1d")),
        average_shortcut=cfg.get("avg_down", kind == "ResNetV1d"),
        caffe=cfg.get("style", "pytorch") == "caffe",
    )
    part["norm"] = _frozen_norm(cfg, norm_eval)
    part["frozen_stages"] = cfg.get("frozen_stages", -1)
    part |= _dilations(cfg, contract)
    if cfg.get("with_cp", False):
        part["checkpointing"] = True
    cfg.expect("in_channels", 3, reason="images have 3 channels")
    cfg.expect("base_channels", 64, reason="the stem has 64 channels")
    cfg.expect("stem_channels", None, 64, reason="the stem has 64 channels")
    cfg.expect("dcn", None, reason="deformable convolutions are not supported; plain 3×3 convolutions")
    cfg.expect("stage_with_dcn", None, (False,) * 4, reason="deformable convolutions are not supported")
    cfg.expect("plugins", None, reason="plug-in layers of blocks are not supported")
    plain_convolutions(cfg)
    cfg.ignore("num_stages", "out_indices", "zero_init_residual", "stage_with_dcn")
    weights = _pretrained(cfg, pretrained, part["type"])
    if weights:
        part["pretrained"] = weights
    return part


def feature_maps(cfg: Keys) -> list[str]:
    """The names of the backbone's feature maps in `out_indices`, such as c2 for 0.

    Raises:
        ConfigError: the backbone has no such map.
    """
    indices = cfg.get("out_indices", -1 if cfg.get("type").endswith("ConvNeXt") else (0, 1, 2, 3))
    names = {number: f"c{number % 4 + 2}" for number in range(-4, 4)}
    indices = [indices] if isinstance(indices, int) else indices
    if any(number not in names for number in indices):
        raise ConfigError(f"{cfg.path}.out_indices must be from 0 to 3, got {format_value(indices)}")
    return [names[number] for number in indices]


def _frozen_norm(cfg: Keys, norm_eval: bool) -> Any:
    """FrozenBN for a BatchNorm that uses its running statistics in training, else the norm itself.

    FrozenBN gets `trainable=True`, which keeps its weight and bias trainable, unless `requires_grad=False`.
    """
    in_eval = cfg.get("norm_eval", norm_eval)
    norm = norm_setting(cfg, default="BN", frozen=True)
    kind = norm["type"] if isinstance(norm, dict) else norm
    trained = cfg.part("norm_cfg").get("requires_grad", True)
    if kind != "BN" or not in_eval:
        if not trained:
            cfg.part("norm_cfg").lose("requires_grad", "the norm's weights are trained", "training")
        return norm
    frozen = {**(norm if isinstance(norm, dict) else {}), "type": "FrozenBN"}
    return frozen | {"trainable": True} if trained else frozen


def _dilations(cfg: Keys, contract: bool) -> dict[str, Any]:
    """`output_stride`, `dilations` and `multi_grid` of a backbone."""
    strides = tuple(cfg.get("strides", (1, 2, 2, 2)))
    dilations = tuple(cfg.get("dilations", (1, 1, 1, 1)))
    strides += (1, 2, 2, 2)[len(strides) :]  # C4's backbone has three stages; the heads have the fourth
    dilations += (1, 1, 1, 1)[len(dilations) :]
    contracts = contract and cfg.get("contract_dilation", False)
    cfg.ignore("contract_dilation")
    grid = cfg.get("multi_grid", None)
    if strides not in OUTPUT_STRIDES:
        cfg.lose("strides", "the output stride is 32")
        return {}
    stride = OUTPUT_STRIDES[strides]
    part: dict[str, Any] = {"output_stride": stride} if stride != 32 else {}
    if grid:
        # OpenMMLab's multi_grid contains the dilations of c5's blocks; Chordate's has factors of c5's dilation, here 1.
        return part | {"dilations": [*dilations[:3], 1], "multi_grid": list(grid)}
    if dilations == (1, 1, 1, 1) and stride == 32:
        return part
    if contracts and dilations == IMPLIED[stride]:
        return part
    if contracts:
        cfg.lose("contract_dilation", "the first block of a stage has the stage's dilation")
    return part | {"dilations": list(dilations)}


def _pretrained(cfg: Keys, pretrained: Any, variant: str) -> Any:
    """The backbone's `pretrained` in Chordate, from `init_cfg`, or else from `model.pretrained`."""
    init = cfg.parts("init_cfg", least=1)[0]
    source = init.get("checkpoint", None) if init.get("type", None) == "Pretrained" else pretrained
    cfg.ignore("init_cfg", "pretrained")
    if not source:
        return None
    library, _, name = str(source).partition("://")
    if library == "torchvision":
        return True if name == variant else f"torchvision://{name}"
    if library == "open-mmlab":
        known = json.loads(files("mmengine").joinpath("hub", "openmmlab.json").read_text(encoding="utf-8"))
        if name not in known:
            init.lose("checkpoint", "unknown address; set model.backbone.pretrained", "training")
        return known.get(name)
    return source


def preprocess_part(cfg: Keys) -> tuple[dict[str, Any], int]:
    """Convert a `data_preprocessor` to `model.preprocess` and `size_divisor`."""
    part: dict[str, Any] = {}
    if "mean" in cfg:
        part = {"mean": list(cfg.get("mean")), "std": list(cfg.get("std", [1.0] * len(cfg.get("mean"))))}
    # MMCV reads images as BGR, so without a conversion the model sees BGR.
    part["bgr"] = not cfg.get("bgr_to_rgb", False)
    cfg.expect("rgb_to_bgr", False, reason="images are read as RGB")
    cfg.ignore("type", "pad_mask", "pad_seg", "mask_pad_value", "seg_pad_value", "pad_val", "seg_pad_val", "size")
    cfg.ignore("boxtype2tensor", "non_blocking", "size_divisor", "test_cfg")
    for batch_augment in cfg.parts("batch_augments"):
        if batch_augment.get("type") == "BatchFixedSizePad":
            batch_augment.ignore("size", "pad_mask", "img_pad_value", "mask_pad_value", "pad_seg", "seg_pad_value")
            batch_augment.lose("type", "images are padded to the largest of their batch", "nothing")
    return part, cfg.get("pad_size_divisor", 1)


def box_loss_part(cfg: Keys, key: str, decoded: bool) -> dict[str, Any]:
    """`box_loss`, `smooth_l1_beta` and `box_loss_weight` of a head.

    Args:
        cfg: the head's settings.
        key: name of the setting of the loss, such as `loss_bbox`.
        decoded: `reg_decoded_bbox`, whether the loss compares boxes, not deltas.
    """
    loss = cfg.part(key)
    kind, weight = loss.get("type", "L1Loss"), loss.get("loss_weight", 1.0)
    loss.ignore("reduction")
    if kind == "GIoULoss" and decoded:
        loss.ignore("eps")
        return {"box_loss": "giou", "box_loss_weight": weight}
    if decoded or kind not in ("L1Loss", "SmoothL1Loss"):
        loss.lose("type", "smooth L1 of the deltas instead", "training")
        loss.ignore("eps", "beta", "linear", "mode")
        return {"box_loss": "smooth_l1", "smooth_l1_beta": 0.0, "box_loss_weight": 1.0}
    beta = 0.0 if kind == "L1Loss" else loss.get("beta", 1.0)
    return {"box_loss": "smooth_l1", "smooth_l1_beta": beta, "box_loss_weight": weight}


def synchronizes(value: Any) -> bool:
    """Whether a setting contains a synchronized BatchNorm."""
    if isinstance(value, dict):
        return "SyncBN" in str(value.get("type")) or any(map(synchronizes, value.values()))
    return any(map(synchronizes, value)) if isinstance(value, Sequence) and not isinstance(value, str) else False
