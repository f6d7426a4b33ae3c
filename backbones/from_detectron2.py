"""Detectron2Backbone: any backbone in Detectron2's BACKBONE_REGISTRY."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from chordate.backbones.adapters import AdaptedBackbone, Network, SelectOutputs, describe_error
from chordate.contracts import FeatureSpec, Library
from chordate.errors import ConfigError, unknown
from chordate.libraries import import_library
from chordate.registry import BACKBONES

RESNET_FEATURES = ["res2", "res3", "res4", "res5"]


@BACKBONES.register_module()
class Detectron2Backbone(AdaptedBackbone):
    """A backbone of Detectron2: `dict(type="Detectron2Backbone", model="build_resnet_backbone")`.

    The arguments are documented in `AdaptedBackbone`. `model` is a name in Detectron2's BACKBONE_REGISTRY; `options`
    are settings of its config, such as `{"MODEL.RESNETS.DEPTH": 101, "MODEL.RESNETS.NORM": "BN"}`. res2 … res5 are
    c2 … c5; the levels p2 … p6 of a backbone with an FPN are named c2 … c6.
    """

    source = "detectron2"
    has_weights = False

    def _find(self, model: str, options: dict[str, Any]) -> Network:
        remedy = "build it from https://github.com/facebookresearch/detectron2"
        build_model = import_library("detectron2.modeling", "Detectron2Backbone", remedy)
        config = import_library("detectron2.config", "Detectron2Backbone", remedy)
        layers = import_library("detectron2.layers", "Detectron2Backbone", remedy)
        registry = build_model.BACKBONE_REGISTRY
        if model not in registry:
            raise ConfigError(unknown("Detectron2 backbone", model, [name for name, _ in registry]))

        def build(resnet_features: Sequence[str]) -> Any:
            cfg = config.get_cfg()
            cfg.MODEL.BACKBONE.FREEZE_AT = 0  # `frozen_stages` freezes layers instead
            cfg.MODEL.RESNETS.OUT_FEATURES = list(resnet_features)
            cfg.MODEL.FPN.IN_FEATURES = list(resnet_features)
            cfg.MODEL.RESNETS.RES5_DILATION = 1 if self.output_stride == 32 else 2
            cfg.merge_from_list([item for pair in options.items() for item in pair])
            return registry.get(model)(cfg, layers.ShapeSpec(channels=self.in_channels))

        try:
            with torch.device("meta"):
                network = build(RESNET_FEATURES)
        except Exception as error:  # Detectron2 raises many types of errors
            raise ConfigError(f"{self.name} cannot be built: {describe_error(error)}") from error
        shapes = network.output_shape()
        names = {f"c{match[1]}": name for name in shapes if (match := re.search(r"(\d+)$", name))}

        def make(wanted: Sequence[str]) -> nn.Module:
            theirs = [names[name] for name in wanted]
            return SelectOutputs(build(theirs if set(theirs) <= set(RESNET_FEATURES) else RESNET_FEATURES), theirs)

        return Network(
            {name: FeatureSpec(shapes[theirs].channels, shapes[theirs].stride) for name, theirs in names.items()},
            make,
            Library("Detectron2", "net.network.", frozenset(network.state_dict())),
            side_multiple=max(network.size_divisibility, 1),
        )
