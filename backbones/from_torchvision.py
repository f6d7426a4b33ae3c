"""Any classification network of torchvision as a backbone, by its name there."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from chordate.backbones.adapters import TRIAL, AdaptedBackbone, one_line
from chordate.contracts import FeatureSpec, Library
from chordate.errors import ConfigError, unknown
from chordate.registry import BACKBONES

STAGES = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}  # the strides of their maps
SHORT = 4  # cells that a map may lack of the trial's image, for want of padding
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
        out, in_channels, frozen_stages, checkpointing: see `AdaptedBackbone`.
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
        checkpointing: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        known = torchvision.models.list_models(module=torchvision.models)
        if model not in known:
            raise ConfigError(unknown("torchvision model", str(model), known))
        super().__init__(f"torchvision's {model}", in_channels, checkpointing)
        self.default_weights = f"torchvision://{model}"
        settings: dict[str, Any] = {}
        if model in INCEPTIONS:
            settings = {"aux_logits": False, "init_weights": True, "transform_input": in_channels == 3}
        settings |= options or {}

        def build() -> nn.Module:
            try:
                whole = torchvision.models.get_model(model, weights=None, **settings)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{self.name}: {one_line(error)}") from error
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
            if model in INCEPTIONS:  # whose files have the auxiliary classifiers
                whole = torchvision.models.get_model(model, weights=None, init_weights=False)
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
        raise ConfigError(f"{name} does not take images of {TRIAL[0]}×{TRIAL[1]} px: {one_line(error)}") from error
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
