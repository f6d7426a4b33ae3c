"""Base class of backbones from other libraries: unifies feature map names, feature map sizes and freezing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import PositiveInt
from chordate.backbones.base import MapNames
from chordate.backbones.recompute import recompute
from chordate.contracts import Backbone, FeatureSpec, Library
from chordate.errors import ConfigError, unknown
from chordate.text import one_line

# Error messages suggest these backbones, because their last stages can be dilated.
DILATED = (
    "Chordate's ResNet (also ResNeXt, Wide, SE, pre-activation and RS), DenseNet and ConvNeXt; timm's ResNet, "
    "RegNet, EfficientNet, MobileNetV1 … V4 and ConvNeXt"
)
# Height and width of the images in the forward pass that finds a network's feature maps; multiples of every stride.
PROBE_SIZE = (256, 512)


class Network(NamedTuple):
    """A network from another library.

    Attributes:
        maps: dict from name to spec of the feature maps that the network can output.
        make: function that builds the network. Its argument is the names of the feature maps to output; the network
            returns these feature maps as a list or a dict.
        library: the library and the tensor names of its network, for loading its weights.
        channels_last: names of the feature maps that the network outputs as `[N, H, W, C]`.
        side_multiple: image height and width are padded to multiples of this number.
    """

    maps: Mapping[str, FeatureSpec]
    make: Callable[[Sequence[str]], nn.Module]
    library: Library
    channels_last: frozenset[str] = frozenset()
    side_multiple: int = 1


class AdaptedBackbone(Backbone):
    """Base class of backbones from other libraries. A subclass's `_find` returns a `Network`, which is built as `net`.

    Feature maps have `ceil(side / stride)` cells per side, as `Backbone` requires. If insufficient padding (AlexNet,
    Inception, SqueezeNet) or pooling that rounds down (VGG) results in fewer cells, border cells are replicated.

    Args:
        model: name of the model in the library.
        out: names of the feature maps to output; None for the last feature map of each stride ≥ 4, "all" for the last
            feature map of each stride.
        in_channels: number of image channels. Pretrained weights for 3 channels are adapted when they are loaded.
        frozen_stages: -1 trains all parameters; 0 freezes the layers up to c1, 1 up to c2, … Frozen BatchNorms
            stay in eval mode.
        checkpointing: whether to use activation checkpointing: keep only the feature maps, and recompute the network in
            the backward pass, so that the activations of backbone and heads are not in memory at the same time.
        output_stride: 16 or 8 to dilate the last stages, so that the coarsest feature map has this stride (see
            `STRIDES_AND_DILATIONS`); 32 for the network's own strides.
        options: further arguments of the library's model constructor.

    Raises:
        ConfigError: the library is not installed, the model or a feature map does not exist, an option or
            `frozen_stages` is invalid, or the network cannot be a backbone or cannot be dilated.
    """

    source: str  # the library's name
    has_weights = True  # whether `<source>://<model>` are the default weights

    def __init__(
        self,
        model: str,
        *,
        out: MapNames | None = None,
        in_channels: PositiveInt = 3,
        frozen_stages: int = -1,
        checkpointing: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.name, self.in_channels, self.checkpointing = f"{self.source}'s {model}", in_channels, checkpointing
        self.default_weights = f"{self.source}://{model}" if self.has_weights else None
        self.output_stride = output_stride
        network = self._find(model, dict(options or {}))
        coarsest = max(spec.stride for spec in network.maps.values())
        if output_stride < 32 and coarsest != output_stride:
            raise self.not_dilated(f"its coarsest stride stays {coarsest}")
        self.library, self.channels_last = network.library, network.channels_last
        self.side_multiple = network.side_multiple
        maps = network.maps
        if out is None or out == "all":
            finest = 1 if out == "all" else 4
            out = list({spec.stride: name for name, spec in maps.items() if spec.stride >= finest}.values())
        for name in out:
            if name not in maps:
                raise ConfigError(unknown(f"feature map of {self.name}", name, maps))
        self.out_features = {name: spec for name, spec in maps.items() if name in out}
        self.net = network.make(list(self.out_features))
        self.frozen: tuple[str, ...] = ()  # names of the modules of `net` that stay in eval mode
        stages = {int(name[1:]) - 1: name for name in maps}
        if frozen_stages not in (-1, *stages):
            known = ", ".join(f"{stage} (up to {name})" for stage, name in stages.items())
            raise ConfigError(f"{self.name}: frozen_stages must be -1 (none), {known}, got {frozen_stages}")
        self.frozen_stages = frozen_stages
        if frozen_stages != -1:
            self._freeze(network.make, stages[frozen_stages])

    def _find(self, model: str, options: dict[str, Any]) -> Network:
        """Find the network in the library. `self.name`, `self.in_channels` and `self.output_stride` are already set.

        Raises:
            ConfigError: the library is not installed, the model does not exist, an option is invalid, or the network
                cannot be used as a backbone.
        """
        raise NotImplementedError

    def not_dilated(self, reason: str) -> ConfigError:
        """The error for a network that cannot be dilated to `output_stride`."""
        return ConfigError(
            f"{self.name} cannot be dilated to output_stride {self.output_stride} ({reason}); remove output_stride, "
            f"or use one of: {DILATED}"
        )

    def _freeze(self, make: Callable[[Sequence[str]], nn.Module], last: str) -> None:
        """Freeze the parameters on which the feature map `last` depends; a meta-device backward pass finds them."""
        with torch.device("meta"):
            leading = make([last])
            (x,) = _listed(leading(torch.empty(2, self.in_channels, *PROBE_SIZE)))
            x.sum().backward()
        used = {name for name, parameter in leading.named_parameters() if parameter.grad is not None}
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name not in used)
        frozen = []
        for name, part in self.net.named_modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                frozen.append(name)
        self.frozen = tuple(frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen:
            self.net.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        below, right = (-side % self.side_multiple for side in images.shape[-2:])
        padded = F.pad(images, (0, right, 0, below)) if below or right else images
        recomputes = self.checkpointing and self.training and torch.is_grad_enabled()
        outputs = _listed(recompute(self.net, padded) if recomputes else self.net(padded))
        maps = {}
        for (name, spec), x in zip(self.out_features.items(), outputs, strict=True):
            if name in self.channels_last:
                x = x.permute(0, 3, 1, 2)
            maps[name] = _on_grid(x, spec.stride, images)
        return maps


class SelectOutputs(nn.Module):
    """Returns some of a network's outputs, in the order of `keys`.

    Args:
        network: a module that returns a list, a tuple or a dict.
        keys: indices or keys of the outputs.
    """

    def __init__(self, network: nn.Module, keys: Sequence[Any]):
        super().__init__()
        self.network, self.keys = network, list(keys)

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = self.network(images)
        return [outputs[key] for key in self.keys]


def build_on_any_device(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the default device; if this fails on the meta device, build on the CPU and move it."""
    try:
        return build()
    except (NotImplementedError, RuntimeError):  # the constructor reads values, which meta tensors lack
        device = torch.get_default_device()
        if device.type != "meta":
            raise
        with torch.device("cpu"):
            network = build()
        return network.to(device)


def _listed(outputs: Any) -> list[Tensor]:
    return list(outputs.values() if isinstance(outputs, Mapping) else outputs)


def _on_grid(x: Tensor, stride: int, images: Tensor) -> Tensor:
    """Pad a feature map by replicating its border cells, or crop it, to `ceil(side / stride)` cells per side."""
    rows, columns = (-(-side // stride) for side in images.shape[-2:])
    down, across = max(0, rows - x.shape[2]), max(0, columns - x.shape[3])
    if down or across:
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2), mode="replicate")
    return x[:, :, :rows, :columns]


def describe_error(error: Exception) -> str:
    """An exception's message in one line of at most 200 characters, or its type if it has none."""
    return one_line(error, 200) or type(error).__name__
