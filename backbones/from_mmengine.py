"""MMBackbone: any backbone of MMDetection, MMSegmentation or MMPretrain."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from chordate.backbones.adapters import (
    PROBE_SIZE,
    AdaptedBackbone,
    Network,
    SelectOutputs,
    build_on_any_device,
    describe_error,
)
from chordate.contracts import FeatureSpec, Library
from chordate.errors import ConfigError, repr_name, unknown
from chordate.libraries import import_library
from chordate.registry import BACKBONES
from chordate.signatures import parameters_of


@BACKBONES.register_module()
class MMBackbone(AdaptedBackbone):
    """A backbone of OpenMMLab's libraries: `dict(type="MMBackbone", model="mmdet.ResNet", options=dict(depth=50))`.

    The arguments are documented in `AdaptedBackbone`. `model` is the library's package and the name in its registry;
    `options` are the backbone's own arguments, such as `depth` and `out_indices`. The network must return a tuple of
    feature maps `[N, C, H, W]`. The first feature map with a stride of 2 or more is named after its stride (c1 for 2,
    c2 for 4); the following feature maps are numbered consecutively.
    """

    source = "OpenMMLab"
    has_weights = False

    def _find(self, model: str, options: dict[str, Any]) -> Network:
        package, _, name = model.partition(".")
        if not name:
            raise ConfigError(
                f'MMBackbone: model must be "<package>.<name>", such as "mmdet.ResNet"; got {repr_name(model)}'
            )
        if package not in MODELS.children:
            import_library(f"{package}.registry", "MMBackbone", f"pip install {package}")
        if package not in MODELS.children:
            raise ConfigError(
                f"MMBackbone: {package}, the package in `model`, has no registry of models; use e.g. mmdet or mmseg"
            )
        registry = MODELS.children[package]
        registry.import_from_location()
        if name not in registry.module_dict:
            raise ConfigError(unknown(f"{package} model", name, registry.module_dict))
        cls = registry.module_dict[name]
        if self.in_channels != 3 and "in_channels" in parameters_of(cls).annotations:
            options = {"in_channels": self.in_channels, **options}

        def build() -> nn.Module:
            return build_on_any_device(lambda: MODELS.build({"type": model, **options}))

        try:
            with torch.device("meta"):
                network = build()
                network.eval()  # not chained: `train` of their ResNet returns None
                outputs = network(torch.empty(2, self.in_channels, *PROBE_SIZE))
        except Exception as error:  # these libraries raise many types of errors
            raise ConfigError(f"{self.name} cannot be built or run: {describe_error(error)}") from error
        specs = [_spec(x, self.name) for x in (outputs if isinstance(outputs, list | tuple) else [outputs])]
        coarse = [(index, spec) for index, spec in enumerate(specs) if spec.stride > 1]
        if not coarse:
            raise ConfigError(f"{self.name} has no feature map with a stride of 2 or more")
        first = round(math.log2(coarse[0][1].stride))
        index = {f"c{first + number}": index for number, (index, _) in enumerate(coarse)}

        def make(names: Sequence[str]) -> nn.Module:
            return SelectOutputs(build(), [index[name] for name in names])

        library = Library(package, "net.network.", frozenset(network.state_dict()))
        return Network({name: specs[place] for name, place in index.items()}, make, library)


def _spec(x: Any, name: str) -> FeatureSpec:
    if not isinstance(x, Tensor) or x.ndim != 4:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ConfigError(f"{name} must return a tuple of feature maps [N, C, H, W], but {got} is one of its outputs")
    return FeatureSpec(x.shape[1], round(PROBE_SIZE[0] / x.shape[2]))
