"""TimmBackbone: any timm model that supports `features_only=True`."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from chordate.backbones.adapters import AdaptedBackbone, Network, describe_error
from chordate.contracts import FeatureSpec, Library
from chordate.errors import ConfigError
from chordate.libraries import timm_for
from chordate.registry import BACKBONES

# Arguments that make timm's fixed-size transformers accept any image size.
ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False})


@BACKBONES.register_module()
class TimmBackbone(AdaptedBackbone):
    """A timm model as backbone: `dict(type="TimmBackbone", model="efficientnet_b0")`.

    The arguments are documented in `AdaptedBackbone`. `model` is a name in `timm.list_models()`, with or without
    the tag of its weights (`"resnet50.a1_in1k"`); `options` are passed to `timm.create_model`
    (`dict(drop_path_rate=0.1)`). The first feature map with a stride of 2 or more is named after its stride (c1 for
    2, c2 for 4); the following feature maps are numbered consecutively. Fixed-size transformers are built so that
    they accept any image size; their images are padded to multiples of the largest stride.
    """

    source = "timm"

    def _find(self, model: str, options: dict[str, Any]) -> Network:
        timm = timm_for(model, "TimmBackbone")
        build = partial(timm.create_model, model, in_chans=self.in_channels, **options)
        try:
            with torch.device("meta"):
                network = build()
                any_size = _any_size(build) if timm.get_pretrained_cfg(model).fixed_input_size else {}
        except Exception as error:  # timm raises many types of errors
            raise ConfigError(f"{self.name} cannot be built: {describe_error(error)}") from error
        features, info = self._extractor(partial(build, features_only=True, **any_size))
        specs = [FeatureSpec(*spec) for spec in zip(info.channels(), info.reduction())]
        coarse = [(spec, index) for spec, index in zip(specs, info.out_indices) if spec.stride > 1]
        first = round(math.log2(coarse[0][0].stride))
        maps = {f"c{first + number}": spec_and_index for number, spec_and_index in enumerate(coarse)}

        def make(names: Sequence[str]) -> nn.Module:
            return features(out_indices=[maps[name][1] for name in names])

        return Network(
            {name: spec for name, (spec, _) in maps.items()},
            make,
            Library("timm", "net.model.", frozenset(network.state_dict())),
            side_multiple=specs[-1].stride if any_size else 1,
        )

    def _extractor(self, build: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
        """A function that builds the feature extractor, and timm's description of its feature maps.

        Falls back to the architecture's own extractor, which MobileNetV3 and its relatives need for `output_stride`,
        and HardCoRe-NAS for every stride.

        Args:
            build: timm's `create_model` with `features_only=True`.
        """
        dilated = {"output_stride": self.output_stride} if self.output_stride < 32 else {}
        # Feature class "getter" keeps the parameters' names and outputs [N, C, H, W].
        getter, own = partial(build, feature_cls="getter", **dilated), partial(_OwnExtractor, partial(build, **dilated))
        errors = []
        for builder in (getter, own):
            try:
                with torch.device("meta"):
                    return builder, builder().feature_info
            except Exception as error:  # timm raises many types of errors
                errors.append(error)
        if dilated:
            raise self.not_dilated("timm cannot dilate it") from errors[0]
        raise ConfigError(f"{self.name} cannot be built: {describe_error(errors[0])}") from errors[0]


class _OwnExtractor(nn.Module):
    """An architecture's own feature extractor in timm, with the parameter names of feature class "getter"."""

    def __init__(self, build: Callable[..., Any], **settings: Any):
        super().__init__()
        self.model = build(**settings)
        self.feature_info = self.model.feature_info

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.model(images)
        return features


def _any_size(build: Callable[..., nn.Module]) -> dict[str, bool]:
    """The first entry of ANY_SIZE that the model's constructor accepts; an empty dict if it accepts none."""
    for settings in ANY_SIZE:
        try:
            build(**settings)
        except TypeError:
            continue
        return settings
    return {}
