"""Any network of torchvision or timm as a backbone, by its name there."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from chordate.contracts import Backbone, FeatureSpec, Library
from chordate.errors import ConfigError, unknown
from chordate.libraries import timm_for
from chordate.registry import BACKBONES

STAGES = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}  # the strides of their maps
TRIAL = (256, 512)  # pixels, multiples of every stride: the image that a network is tried with
SHORT = 4  # cells that a map may lack of such an image, for want of padding


class AdaptedBackbone(Backbone):
    """What both adapters share: `net`, a library's network that gives a list or a dict of maps.

    A subclass ends with `_adopt`. Maps have `ceil(side / stride)` cells a side, as the contract says: where
    convolutions without padding (AlexNet, Inception, SqueezeNet) or pools that round down (VGG) give fewer, the
    outermost are repeated.

    Args of both:
        out: the maps to give; None for all of stride 4 and coarser.
        in_channels: of the images. 3-channel weights are adapted when they are loaded.
        frozen_stages: -1 trains everything; 0 freezes all that leads to c1, 1 what leads to c2 … Frozen BatchNorms keep
            their statistics.
    """

    frozen: tuple[str, ...] = ()  # parts of `net` that stay in evaluation
    channels_last: frozenset[str] = frozenset()  # maps that `net` gives as [N, H, W, C]
    side_multiple: int = 1  # what `net` must have the images' sides padded to

    def __init__(self, name: str, in_channels: int):
        super().__init__()
        self.name, self.in_channels = name, in_channels

    def _adopt(
        self,
        offered: Mapping[str, FeatureSpec],
        make: Callable[[Sequence[str]], nn.Module],
        out: Sequence[str] | None,
        frozen_stages: int,
    ) -> None:
        """Take the network that gives the maps `out` of those on offer: `make(names)` builds it."""
        if out is None:
            out = [name for name, spec in offered.items() if spec.stride >= 4]
        if isinstance(out, str) or not out:
            raise ConfigError(f"{self.name}: out={out!r}; give a list of at least one map")
        for name in out:
            if name not in offered:
                raise ConfigError(unknown(f"map of {self.name}", str(name), offered))
        self.out_features = {name: spec for name, spec in offered.items() if name in out}
        self.net = make(list(self.out_features))
        stages = {int(name[1:]) - 1: name for name in offered}
        if frozen_stages not in (-1, *stages):
            known = ", ".join(f"{stage} (all that leads to {name})" for stage, name in stages.items())
            raise ConfigError(f"{self.name}: frozen_stages={frozen_stages!r}; it is -1 (none), {known}")
        if frozen_stages != -1:
            self._freeze(make, stages[frozen_stages])

    def _freeze(self, make: Callable[[Sequence[str]], nn.Module], last: str) -> None:
        """Take the gradients from every parameter on the way to a map; the meta device tells which these are."""
        with torch.device("meta"):
            leading = make([last])
            (x,) = _maps(leading(torch.empty(2, self.in_channels, *TRIAL)))
            x.sum().backward()
        used = {name for name, parameter in leading.named_parameters() if parameter.grad is not None}
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name not in used)
        whole = []
        for name, part in self.net.named_modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                whole.append(name)
        self.frozen = tuple(whole)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen:
            self.net.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, padding = {}, [-side % self.side_multiple for side in images.shape[-2:]]
        padded = F.pad(images, (0, padding[1], 0, padding[0])) if any(padding) else images
        for (name, spec), x in zip(self.out_features.items(), _maps(self.net(padded)), strict=True):
            if name in self.channels_last:
                x = x.permute(0, 3, 1, 2)
            maps[name] = _on_grid(x, spec.stride, images)
        return maps


def _maps(outputs: Any) -> list[Tensor]:
    return list(outputs.values() if isinstance(outputs, Mapping) else outputs)


def _on_grid(x: Tensor, stride: int, images: Tensor) -> Tensor:
    """Bring a map to `ceil(side / stride)` cells: repeat those at its border, or cut what is too much."""
    rows, columns = (-(-side // stride) for side in images.shape[-2:])
    down, across = max(0, rows - x.shape[2]), max(0, columns - x.shape[3])
    if down or across:
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2), mode="replicate")
    return x[:, :, :rows, :columns]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# --- torchvision ------------------------------------------------------------------------------------------------

HEADS = ("avgpool", "classifier", "fc", "head", "heads")  # what its networks call the parts after the features
# Torchvision's weights of these two want colours that are normalised in another way, which they do themselves.
INCEPTIONS = ("googlenet", "inception_v3")


class _Node(NamedTuple):
    """A step of a traced network that gives a map: its path, what it gives, and whether as `[N, H, W, C]`."""

    path: str
    spec: FeatureSpec
    channels_last: bool


@BACKBONES.register_module()
class TorchvisionBackbone(AdaptedBackbone):
    """A classification network of torchvision: `dict(type="TorchvisionBackbone", model="vgg16")`.

    c1 … c5 are the last maps of stride 2 … 32, as far as it has them.

    Args:
        model: its name in `torchvision.models.list_models()`.
        out, in_channels, frozen_stages: see `AdaptedBackbone`.
        options: further arguments of torchvision's builder: `dict(stochastic_depth_prob=0.2)`.

    Raises:
        ConfigError: no such model, argument or map, or a network that does not take images of any size.
    """

    def __init__(
        self,
        model: str,
        *,
        out: Sequence[str] | None = None,
        in_channels: int = 3,
        frozen_stages: int = -1,
        options: Mapping[str, Any] | None = None,
    ):
        known = torchvision.models.list_models(module=torchvision.models)
        if model not in known:
            raise ConfigError(unknown("torchvision model", str(model), known))
        super().__init__(f"torchvision's {model}", in_channels)
        self.default_weights = f"torchvision://{model}"
        settings = dict(options or {})
        if model in INCEPTIONS:
            settings = {"aux_logits": False, "init_weights": True, "transform_input": in_channels == 3, **settings}

        def build() -> nn.Module:
            try:
                whole = torchvision.models.get_model(model, weights=None, **settings)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{self.name}: {_one_line(error)}") from error
            except NotImplementedError:  # RegNet works out its widths with tensors, which the meta device cannot
                with torch.device("cpu"):
                    whole = torchvision.models.get_model(model, weights=None, **settings)
                whole.to(torch.get_default_device())
            _take_channels(whole, in_channels)
            return whole

        def make(names: Sequence[str]) -> nn.Module:
            return create_feature_extractor(build(), {nodes[name].path: name for name in names})

        with torch.device("meta"):
            whole = build()
            nodes = _nodes(whole, in_channels, self.name)
        self.library = Library("torchvision", "net.", frozenset(whole.state_dict()))
        self.channels_last = frozenset(name for name, node in nodes.items() if node.channels_last)
        self._adopt({name: node.spec for name, node in nodes.items()}, make, out, frozen_stages)


def _take_channels(whole: nn.Module, in_channels: int) -> None:
    """Put a first convolution for `in_channels` in the place of the one for three."""
    name, stem = next((name, part) for name, part in whole.named_modules() if isinstance(part, nn.Conv2d))
    if stem.in_channels != in_channels:
        settings = {key: getattr(stem, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        parent, _, child = name.rpartition(".")
        new = nn.Conv2d(in_channels, stem.out_channels, bias=stem.bias is not None, **settings)
        setattr(whole.get_submodule(parent), child, new)


def _nodes(whole: nn.Module, in_channels: int, name: str) -> dict[str, _Node]:
    """By map name the last step of each stride; the network is on the meta device.

    Only what a block gives as a whole is looked at (`relu`, `Mixed_6a`, `features.6`, `layer3.5`), not what its
    branches give within it.
    """
    rows_of_blocks = {name for name, part in whole.named_children() if isinstance(part, nn.Sequential | nn.ModuleList)}
    try:
        paths = get_graph_node_names(whole)[1]
        every = create_feature_extractor(whole, paths).eval()
        outputs = every(torch.empty(2, in_channels, *TRIAL, device="meta"))
    except Exception as error:  # what cannot be traced, or not at this size, fails in many ways
        raise ConfigError(f"{name} does not take images of {TRIAL[0]}×{TRIAL[1]} px: {_one_line(error)}") from error
    ends: dict[tuple[str, ...], str] = {}
    for path in paths:
        part, *inner = path.split(".")
        if part not in HEADS:
            ends[part, *(inner[:1] if part in rows_of_blocks else ())] = path
    found: dict[str, _Node] = {}
    for path in sorted(ends.values(), key=paths.index):
        x = outputs[path]
        if not isinstance(x, Tensor) or x.ndim != 4:
            continue
        for map_name, stride in STAGES.items():
            for channels_last in (False, True):
                rows, columns, channels = x.shape[1:] if channels_last else (*x.shape[2:], x.shape[1])
                lacking = [side // stride - cells for side, cells in zip(TRIAL, (rows, columns))]
                if all(0 <= cells <= SHORT for cells in lacking):
                    found[map_name] = _Node(path, FeatureSpec(channels, stride), channels_last)
    return {map_name: found[map_name] for map_name in STAGES if map_name in found}


# --- timm -------------------------------------------------------------------------------------------------------

# How transformers of timm's, which are made for one image size, are told to take any.
ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False})


@BACKBONES.register_module()
class TimmBackbone(AdaptedBackbone):
    """A network of timm that gives features: `dict(type="TimmBackbone", model="efficientnet_b0")`.

    The first of its maps of stride 2 and coarser is named after its stride (2 is c1, 4 is c2), the others follow.
    Transformers that are made for one image size are told to take any, padded to multiples of their coarsest stride.

    Args:
        model: its name in `timm.list_models()`, with or without the tag of its weights (`"resnet50.a1_in1k"`).
        out, in_channels, frozen_stages: see `AdaptedBackbone`.
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
        options: Mapping[str, Any] | None = None,
    ):
        timm = timm_for(str(model), "TimmBackbone")
        super().__init__(f"timm's {model}", in_channels)
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
            raise ConfigError(f"{self.name}: {_one_line(error)}") from error
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
