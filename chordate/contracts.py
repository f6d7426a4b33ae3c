"""The contracts (base classes) of backbones and necks, and checks that implementations fulfill them and fit together.

The contracts of heads are in `head_contracts`; the contracts of models and metrics are in `model_contracts`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chordate.arguments import PositiveInt, validate_arguments
from chordate.errors import ConfigError

# Whether building a model checks the outputs of its parts, such as feature maps. The checks take most of the time of
# building a model on the meta device, so code that only counts parameters turns them off.
CHECK_OUTPUTS = ContextVar("CHECK_OUTPUTS", default=True)
READS_VALUES = object()  # returned instead of the outputs of a module that cannot run on the meta device


@dataclass(frozen=True)
class FeatureSpec:
    """Number of channels of a feature map, and its stride in pixels of the input."""

    channels: PositiveInt
    stride: PositiveInt

    def __str__(self) -> str:
        return f"{self.channels} ch, stride {self.stride}"


class FeatureSpecs(dict[str, FeatureSpec]):
    """The FeatureSpecs of the feature maps that a module outputs, keyed by name, ordered fine to coarse.

    `source` is the module's name, for error messages.
    """

    def __init__(self, specs: Mapping[str, FeatureSpec], source: str):
        super().__init__(specs)
        self.source = source

    def __str__(self) -> str:
        return f"{self.source} offers " + ", ".join(f"{name} ({spec})" for name, spec in self.items())


@dataclass(frozen=True)
class Library:
    """The library that built a backbone's network.

    Attributes:
        name: the library's name, such as "torchvision" or "timm".
        prefix: prefix of the library's tensor names in the backbone's state dict.
        tensors: tensor names of the library's complete network; the backbone may have only a subset.
    """

    name: str
    prefix: str
    tensors: frozenset[str]


class Backbone(nn.Module):
    """Base class of backbones, which compute feature maps from images.

    A subclass sets `out_features` in `__init__`, ordered fine to coarse and named `c1` … `c5` after the stages of the
    FPN paper (Lin et al. 2017, section 3). `forward` takes normalized images `[N, in_channels, H, W]` and returns a
    dict from these names to feature maps `[N, channels, ceil(H / stride), ceil(W / stride)]`. A backbone for other
    inputs (clips `[N, C, T, H, W]`) overrides `input_shape`; its feature maps may have further dimensions between the
    channels and the two spatial dimensions.
    """

    out_features: Mapping[str, FeatureSpec]
    name: str = ""  # name in messages, such as "ResNet-50"; if empty, the class's name
    in_channels: int = 3
    pretrained: str | bool | None = None  # weights to load, set by the registry from the config
    frozen_stages: int = -1  # the stages that are not trained: -1 for none, 0 for the stem, 1 for the first stage too
    default_weights: str | None = None  # the weights of `pretrained=True`, set by the registry from the variant
    library: Library | None = None  # the library that built the network; None if it was Chordate

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one input with the given height and width, without the batch dimension."""
        return self.in_channels, height, width

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width of typical images: 32 px (CIFAR) if the largest stride is below 8, else 224 px."""
        side = 32 if list(self.out_features.values())[-1].stride < 8 else 224
        return side, side

    def pop_stage(self, name: str) -> Backbone:
        """Remove the last stage, which outputs the feature map `name`.

        Returns:
            The stage, as a backbone whose input is the preceding feature map.

        Raises:
            ConfigError: the backbone has no stage that can be removed.
        """
        raise ConfigError(
            f"{offered(self).source} has no stage that can be removed; use another backbone, e.g. resnet50"
        )


class Neck(nn.Module):
    """Base class of necks, which compute feature maps from the feature maps of a backbone.

    The first argument of the constructor is `in_features`, the FeatureSpecs of the backbone. Like a backbone, a neck
    sets `out_features`.
    """

    out_features: Mapping[str, FeatureSpec]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


def offered(part: nn.Module) -> FeatureSpecs:
    """Validate the `out_features` of a backbone or neck. Returns them with the module's name for error messages.

    Raises:
        ConfigError: `out_features` is missing, empty, or not a dict of FeatureSpecs with positive numbers.
    """
    name = getattr(part, "name", None) or type(part).__name__
    specs = getattr(part, "out_features", None)
    if not isinstance(specs, Mapping) or not specs:
        raise ConfigError(
            f'{name} has no out_features; set self.out_features = {{"c2": FeatureSpec(channels, stride), …}} '
            f"in its __init__"
        )
    wrong = [key for key, spec in specs.items() if not isinstance(spec, FeatureSpec)]
    if wrong:
        raise ConfigError(
            f"{name}.out_features[{wrong[0]!r}] is {specs[wrong[0]]!r}, not a FeatureSpec(channels, stride)"
        )
    for key, spec in specs.items():
        validate_arguments(FeatureSpec, vars(spec), f"{name}.out_features[{key!r}]")
    return FeatureSpecs(specs, name)


def select(in_features: Mapping[str, FeatureSpec], names: Iterable[str], wanted_by: str) -> dict[str, FeatureSpec]:
    """Select feature maps by name.

    Args:
        in_features: the available feature maps.
        names: names of the wanted feature maps, in the order of the result.
        wanted_by: name of the module that needs the feature maps, for error messages.

    Raises:
        ConfigError: a feature map does not exist; the message lists the wanted and the available feature maps.
    """
    names = list(names)
    missing = [name for name in names if name not in in_features]
    if missing:
        offer = in_features if isinstance(in_features, FeatureSpecs) else FeatureSpecs(in_features, "the module before")
        wanted = ", ".join(f'"{name}"' for name in names)
        raise ConfigError(f'{wanted_by} needs feature maps {wanted}, but {offer}; there is no "{missing[0]}"')
    return {name: in_features[name] for name in names}


@torch.no_grad()
def check_outputs(backbone: nn.Module, in_channels: int | None = None, neck: nn.Module | None = None) -> None:
    """Check the `out_features` of a backbone and its neck by one forward pass on the meta device (which computes only
    shapes).

    Args:
        backbone: the built backbone.
        in_channels: number of channels of the model's images; None for the backbone's `in_channels`.
        neck: the neck built for this backbone, or None.

    Raises:
        ConfigError: forward fails, a feature map is missing, or its channels or stride differ from `out_features`.
    """
    if not CHECK_OUTPUTS.get():
        return
    parts = [offered(backbone)] if neck is None else [offered(backbone), offered(neck)]
    side = 2 * math.lcm(64, *(spec.stride for specs in parts for spec in specs.values()))
    channels, *sides = backbone.input_shape(side, side) if isinstance(backbone, Backbone) else (3, side, side)
    shape = [2, channels if in_channels is None else in_channels, *sides]
    described = f"images {shape}"
    if shape[1] != channels:
        described += f" (preprocess.mean has {shape[1]} channels, and backbone.in_channels is {channels}; set both)"
    maps = meta_outputs(backbone, (torch.empty(*shape, device="meta"),), parts[0].source, described)
    if maps is READS_VALUES:
        return
    _compare(maps, parts[0], side, len(shape))
    if neck is not None:
        outputs = meta_outputs(neck, (maps,), parts[1].source, f"the feature maps of {parts[0].source}")
        if outputs is not READS_VALUES:
            _compare(outputs, parts[1], side, len(shape))


def meta_outputs(part: nn.Module, inputs: tuple[Any, ...], name: str, described: str) -> Any:
    """The outputs of a module on the meta device; READS_VALUES if its forward reads values, which meta tensors do not
    have.

    Args:
        part: the module, which is not changed.
        inputs: the arguments of forward, on the meta device.
        name, described: name of the module, and description of the inputs, for the message.

    Raises:
        ConfigError: forward fails.
    """
    state = {k: v.to("meta") for k, v in [*part.named_parameters(), *part.named_buffers()]}
    modes = {module: module.training for module in part.modules()}
    part.eval()
    try:
        return torch.func.functional_call(part, state, inputs)
    except (RuntimeError, AssertionError, TypeError, ValueError, LookupError, AttributeError) as error:
        # Errors that mention "meta": an operator has no meta kernel, or forward reads a value (`.item()`) or uses a
        # tensor that is not a buffer.
        if isinstance(error, NotImplementedError) or re.search(r"\bmeta\b", str(error)):
            return READS_VALUES
        raise ConfigError(f"{name}: forward fails for {described}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training


def _compare(outputs: Any, specs: FeatureSpecs, side: int, ndim: int) -> None:
    """Check that a module's feature maps for two images of `side` × `side` pixels match its `out_features`.

    Each feature map must have `ndim` dimensions.
    """
    for name, spec in specs.items():
        if not isinstance(outputs, Mapping) or name not in outputs:
            returned = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ConfigError(f"{specs.source} declares {name} ({spec}), but its forward returned {returned}")
        got = tuple(outputs[name].shape)
        want = (2, spec.channels, side // spec.stride, side // spec.stride)
        if (*got[:2], *got[-2:]) != want or len(got) != ndim:
            raise ConfigError(
                f"{specs.source} declares {name} ({spec}), which is {list(want)} for images of {side} px, "
                f"but its forward returned {list(got)}"
            )
