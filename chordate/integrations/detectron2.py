"""Chordate's backbones in Detectron2: importing this module registers them for `MODEL.BACKBONE.NAME`.

`chordate_seresnext50_32x4d` is the backbone; `chordate_seresnext50_32x4d_fpn` has Detectron2's FPN on it (p2 … p6), and
`chordate_seresnext50_32x4d_retinanet_fpn` the FPN of RetinaNet (p3 … p7). Feature maps have Detectron2's names, res2 …
res5 for our c2 … c5. These settings of a config apply:

- `MODEL.BACKBONE.FREEZE_AT`: 0 freezes nothing, 1 the stem, 2 also res2, …
- `MODEL.RESNETS.OUT_FEATURES`, without an FPN; `MODEL.FPN.*`, with an FPN.
- `MODEL.RESNETS.NORM` for backbones with the setting `norm`: "FrozenBN", "BN", "SyncBN" or "GN".
- `MODEL.RESNETS.RES5_DILATION`: 2 for the layout DC5.
- `MODEL.PIXEL_MEAN`, `PIXEL_STD`, `INPUT.FORMAT`: weights for our backbones expect RGB images with ImageNet's mean
  [123.675, 116.28, 103.53] and std [58.395, 57.12, 57.375]; Detectron2's defaults are BGR and a std of 1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor

from chordate import contracts
from chordate.errors import ConfigError
from chordate.integrations.backbone_names import backbone_names
from chordate.registry import BACKBONES, settings_of


class ChordateBackbone(Backbone):
    """A Chordate backbone with Detectron2's contract; it takes images of any size.

    Args:
        backbone: the Chordate backbone.
        out_features: Detectron2's names of the feature maps to return: res2 … res5.

    Raises:
        ConfigError: the backbone does not have one of the feature maps.
    """

    def __init__(self, backbone: contracts.Backbone, out_features: Sequence[str]):
        super().__init__()
        self.backbone = backbone
        self.maps = {name: _our_name(name) for name in out_features}  # from Detectron2's names to ours
        self.specs = contracts.select(contracts.offered(backbone), self.maps.values(), "Detectron2")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        return {name: features[ours] for name, ours in self.maps.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        specs = {name: self.specs[ours] for name, ours in self.maps.items()}
        return {name: ShapeSpec(channels=spec.channels, stride=spec.stride) for name, spec in specs.items()}


def build_chordate_backbone(
    cfg: Any, input_shape: ShapeSpec, name: str, out_features: Sequence[str] | None = None
) -> ChordateBackbone:
    """Build a backbone with the settings of a Detectron2 config.

    Args:
        cfg: the config.
        input_shape: has the number of image channels.
        name: name of a Chordate backbone.
        out_features: names of the feature maps, res2 … res5; None for `MODEL.RESNETS.OUT_FEATURES`.

    Raises:
        ConfigError: the backbone does not have a setting or a feature map that the config asks for.
    """
    known, resnets = settings_of(name) or set(), cfg.MODEL.RESNETS
    out_features = out_features or resnets.OUT_FEATURES
    settings: dict[str, Any] = {
        "out": [_our_name(feature) for feature in out_features],
        "in_channels": input_shape.channels,
        "norm": resnets.NORM or None,
    }
    settings = {setting: value for setting, value in settings.items() if setting in known}
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        if "frozen_stages" not in known:
            raise ConfigError(f"{name} cannot be frozen; set MODEL.BACKBONE.FREEZE_AT to 0")
        settings["frozen_stages"] = cfg.MODEL.BACKBONE.FREEZE_AT - 1
    if resnets.RES5_DILATION == 2:
        settings["output_stride"] = 16
        if "dilations" in known:
            settings["dilations"] = (1, 1, 1, 2)  # Detectron2 also dilates res5's first block
    backbone = BACKBONES.build({"type": name, **settings})
    contracts.check_outputs(backbone, input_shape.channels)
    return ChordateBackbone(backbone, out_features)


def build_chordate_fpn(cfg: Any, input_shape: ShapeSpec, name: str) -> FPN:
    """Build a backbone and Detectron2's FPN, with p6 pooled from p5."""
    return _fpn(cfg, build_chordate_backbone(cfg, input_shape, name, cfg.MODEL.FPN.IN_FEATURES), LastLevelMaxPool())


def build_chordate_retinanet_fpn(cfg: Any, input_shape: ShapeSpec, name: str) -> FPN:
    """Build a backbone and Detectron2's FPN, with p6 and p7 computed from res5."""
    bottom_up = build_chordate_backbone(cfg, input_shape, name, cfg.MODEL.FPN.IN_FEATURES)
    last = bottom_up.output_shape()["res5"].channels
    return _fpn(cfg, bottom_up, LastLevelP6P7(last, cfg.MODEL.FPN.OUT_CHANNELS))


def _fpn(cfg: Any, bottom_up: ChordateBackbone, top_block: Any) -> FPN:
    fpn = cfg.MODEL.FPN
    return FPN(bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, top_block, fpn.FUSE_TYPE)


def _our_name(feature: str) -> str:
    """Convert Detectron2's name of a feature map to ours: `res4` becomes `c4`."""
    if not (feature.startswith("res") and feature[3:].isdigit()):
        raise ConfigError(
            f"MODEL.RESNETS.OUT_FEATURES and MODEL.FPN.IN_FEATURES must name feature maps of Chordate's backbones, "
            f'res2 … res5, got "{feature}"'
        )
    return f"c{feature[3:]}"


def register_backbones() -> None:
    """Register every Chordate backbone, alone and with an FPN.

    Call it again to add backbones that were registered after the import of this module.
    """
    for name in backbone_names():
        _register(f"chordate_{name}", build_chordate_backbone, name)
        _register(f"chordate_{name}_fpn", build_chordate_fpn, name)
        _register(f"chordate_{name}_retinanet_fpn", build_chordate_retinanet_fpn, name)


def _register(name: str, build: Callable[..., Any], backbone: str) -> None:
    if name not in BACKBONE_REGISTRY:
        builder = partial(build, name=backbone)
        builder.__name__ = name  # type: ignore[attr-defined]  # the name in Detectron2's registry
        BACKBONE_REGISTRY.register(builder)


register_backbones()
