"""SmpBackbone: any encoder of segmentation_models.pytorch."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from chordate.backbones.adapters import AdaptedBackbone, Network, SelectOutputs, build_on_any_device, describe_error
from chordate.contracts import FeatureSpec, Library
from chordate.errors import ConfigError
from chordate.libraries import smp_encoders
from chordate.registry import BACKBONES


@BACKBONES.register_module()
class SmpBackbone(AdaptedBackbone):
    """An encoder of segmentation_models.pytorch as backbone: `dict(type="SmpBackbone", model="mit_b0")`.

    The arguments are documented in `AdaptedBackbone`. `model` is a name in `smp.encoders.get_encoder_names()`, or
    `tu-` and the name of a timm model; `options` are further arguments of `smp.encoders.get_encoder`. c1 … c5 are the
    encoder's feature maps 1 … 5; feature maps with 0 channels are left out. `pretrained="smp://resnet34/imagenet"`
    loads weights of smp; `pretrained=True` loads the weights "imagenet".
    """

    source = "smp"

    def _find(self, model: str, options: dict[str, Any]) -> Network:
        encoders = smp_encoders(model, "SmpBackbone")

        def build(depth: int) -> nn.Module:
            stride = self.output_stride
            settings = {"in_channels": self.in_channels, "output_stride": stride, "weights": None, **options}
            return build_on_any_device(partial(encoders.get_encoder, model, depth=depth, **settings))

        def make(names: Sequence[str]) -> nn.Module:
            numbers = [int(name[1:]) for name in names]
            return SelectOutputs(build(max(numbers)), numbers)

        try:
            with torch.device("meta"):
                encoder: Any = build(5)
        except Exception as error:  # smp's and timm's constructors raise many types of errors
            if self.output_stride < 32:
                raise self.not_dilated("smp cannot dilate it") from error
            raise ConfigError(f"{self.name} cannot be built: {describe_error(error)}") from error
        return Network(
            {
                f"c{number}": FeatureSpec(channels, min(2**number, self.output_stride))
                for number, channels in enumerate(encoder.out_channels)
                if number > 0 and channels > 0
            },
            make,
            Library("segmentation_models.pytorch", "net.network.", frozenset(encoder.state_dict())),
        )
