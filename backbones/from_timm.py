"""Any network of timm that gives features as a backbone, by its name there."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from chordate.backbones.adapters import AdaptedBackbone, one_line
from chordate.contracts import FeatureSpec, Library
from chordate.errors import ConfigError
from chordate.libraries import timm_for
from chordate.registry import BACKBONES

# How transformers of timm's, which are made for one image size, are told to take any.
ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False})


@BACKBONES.register_module()
class TimmBackbone(AdaptedBackbone):
    """A network of timm that gives features: `dict(type="TimmBackbone", model="efficientnet_b0")`.

    The first of its maps of stride 2 and coarser is named after its stride (2 is c1, 4 is c2), the others follow.
    Transformers that are made for one image size are told to take any, padded to multiples of their coarsest stride.

    Args:
        model: its name in `timm.list_models()`, with or without the tag of its weights (`"resnet50.a1_in1k"`).
        out, in_channels, frozen_stages, checkpointing: see `AdaptedBackbone`.
        options: further arguments of `timm.create_model`: `dict(drop_path_rate=0.1, output_stride=16)`.

    Raises:
        ConfigError: timm is not installed; no such model, argument or map; or a network without features.
    """

    def __init__(
        self,
        model: str,
        *,
        out: Sequence[str] | None = None,
        in_channels: int = 3,
        frozen_stages: int = -1,
        checkpointing: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        timm = timm_for(str(model), "TimmBackbone")
        super().__init__(f"timm's {model}", in_channels, checkpointing)
        self.default_weights = f"timm://{model}"
        build = partial(timm.create_model, model, in_chans=in_channels, **(options or {}))
        try:
            with torch.device("meta"):
                any_size = _any_size(build) if timm.get_pretrained_cfg(model).fixed_input_size else {}
                # Of timm's ways to give features the one that keeps the parameters' names, and puts channels first.
                features = partial(build, features_only=True, feature_cls="getter", **any_size)
                info = features().feature_info
                whole = build()
        except Exception as error:  # timm refuses in many ways
            raise ConfigError(f"{self.name}: {one_line(error)}") from error
        specs = [FeatureSpec(*spec) for spec in zip(info.channels(), info.reduction())]
        coarse = [(spec, index) for spec, index in zip(specs, info.out_indices) if spec.stride > 1]
        first = round(math.log2(coarse[0][0].stride))
        maps = {f"c{first + number}": found for number, found in enumerate(coarse)}
        if any_size:
            self.side_multiple = specs[-1].stride
        self.library = Library("timm", "net.model.", frozenset(whole.state_dict()))

        def make(names: Sequence[str]) -> nn.Module:
            return features(out_indices=[maps[name][1] for name in names])

        self._adopt({name: spec for name, (spec, _) in maps.items()}, make, out, frozen_stages)


def _any_size(build: Callable[..., nn.Module]) -> dict[str, bool]:
    """What a family of transformers calls taking images of any size; empty where it does not."""
    for settings in ANY_SIZE:
        try:
            build(**settings)
        except TypeError:
            continue
        return settings
    return {}
