"""Converts MMPretrain's ConvNeXt in configs of MMDetection and MMSegmentation, and its decay of learning rates."""

from __future__ import annotations

from typing import Any

from chordate.errors import ConfigError
from chordate.migration.config_conversion import Keys

DECAY = "LearningRateDecayOptimizerConstructor"


def convnext_part(cfg: Keys) -> dict[str, Any]:
    """Convert the section `backbone` of a ConvNeXt to Chordate's `model.backbone`.

    Raises:
        ConfigError: the backbone outputs vectors, not feature maps.
    """
    arch = cfg.get("arch", "tiny")
    part = {"type": f"convnext_{arch}", "out_norm": True, "drop_path": cfg.get("drop_path_rate", 0.0)}
    part["frozen_stages"] = cfg.get("frozen_stages", 0) or -1  # the stem is frozen together with the first stage
    if cfg.get("with_cp", False):
        part["checkpointing"] = True
    if cfg.get("gap_before_final_norm", True):
        raise ConfigError(f"{cfg.path}.gap_before_final_norm must be False, or the backbone has no feature maps")
    init = cfg.parts("init_cfg", least=1)[0]
    if init.get("type", None) == "Pretrained":
        # MMPretrain's ConvNeXts are the authors' as well.
        part["pretrained"] = f"timm://convnext_{arch}.fb_in{'22k' if 'in21k' in init.get('checkpoint') else '1k'}"
        init.lose("checkpoint", "the authors' weights from timm instead", "training")
    cfg.ignore("init_cfg", "out_indices", "linear_pw_conv")
    scale = cfg.get("layer_scale_init_value", 1e-6)
    if not scale:
        cfg.lose("layer_scale_init_value", "blocks have a layer scale")
    elif "pretrained" not in part:
        cfg.expect("layer_scale_init_value", 1e-6, reason="the initial layer scale is 1e-6", effect="training")
    cfg.expect("use_grn", False, reason="blocks have no global response normalization")
    cfg.expect("in_channels", 3, reason="images have 3 channels")
    cfg.expect("stem_patch_size", 4, reason="the stem's patches have 4×4 pixels")
    cfg.expect("norm_cfg", {"type": "LN2d", "eps": 1e-6}, reason="LayerNorm with an eps of 1e-6")
    cfg.expect("act_cfg", {"type": "GELU"}, reason="GELU")
    return part


def layer_decay(wrapper: Keys, backbone: Keys) -> dict[str, Any]:
    """The settings of the section `optimizer` for MMDetection's layer-wise decay of the learning rate; {} without it.

    Source: mmdet/engine/optimizers/layer_decay_optimizer_constructor.py.

    Args:
        wrapper: the section `optim_wrapper`.
        backbone: the section `model.backbone`.
    """
    wrapper.expect("constructor", None, DECAY, reason="the usual parameter groups", effect="training")
    if wrapper.get("constructor", None) != DECAY:
        return {}
    rules = wrapper.part("paramwise_cfg")
    decay, layers = rules.get("decay_rate"), rules.get("num_layers")
    is_convnext = backbone.get("type") == "ConvNeXt"
    # The numbers of layers with three blocks of the third stage, and the blocks of each other stage, as one layer.
    if not is_convnext or layers != (6 if backbone.get("arch", "tiny") == "tiny" else 12):
        rules.lose("decay_rate", "all layers have the same learning rate", "training")
        return {}
    rules.expect("decay_type", "layer_wise", reason="the learning rate decays by layer", effect="training")
    return {"layer_decay": decay, "layer_blocks": 3, "no_decay": ["norm", "bias", "*.gamma"]}
