"""TorchvisionBackbone: any torchvision classification model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from chordate.backbones.adapters import PROBE_SIZE, AdaptedBackbone, Network, describe_error
from chordate.contracts import FeatureSpec, Library
from chordate.errors import ConfigError, unknown
from chordate.registry import BACKBONES

STAGES = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}  # stride of each feature map
# With insufficient padding, feature maps may have up to this many fewer cells per side than `image side // stride`.
MISSING_CELLS = 4
HEADS = ("avgpool", "classifier", "fc", "head", "heads")  # torchvision's names of the modules after the features
# torchvision's weights of these two networks expect a different normalization, which the networks apply themselves.
INCEPTIONS = ("googlenet", "inception_v3")


class _Node(NamedTuple):
    """A node of a traced network that outputs a feature map: path, spec, and whether the map is `[N, H, W, C]`."""

    path: str
    spec: FeatureSpec
    channels_last: bool


@BACKBONES.register_module()
class TorchvisionBackbone(AdaptedBackbone):
    """A torchvision model as backbone: `dict(type="TorchvisionBackbone", model="vgg16")`.

    The arguments are documented in `AdaptedBackbone`. `model` is a name in `torchvision.models.list_models()`;
    `options` are passed to torchvision's model builder (`dict(stochastic_depth_prob=0.2)`). c1 … c5 are the network's
    last feature maps with strides 2, 4, 8, 16 and 32. The network must accept images of any size.
    """

    source = "torchvision"

    def _find(self, model: str, options: dict[str, Any]) -> Network:
        known = torchvision.models.list_models(module=torchvision.models)
        if model not in known:
            raise ConfigError(unknown("torchvision model", model, known))
        settings: dict[str, Any] = {}
        if model in INCEPTIONS:
            settings = {"aux_logits": False, "init_weights": True, "transform_input": self.in_channels == 3}
        if self.output_stride < 32:
            raise self.not_dilated("TorchvisionBackbone finds c1 … c5 by stride, so no two can have the same stride")
        settings |= options

        def build() -> nn.Module:
            try:
                network = torchvision.models.get_model(model, weights=None, **settings)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{self.name} cannot be built: {describe_error(error)}") from error
            except NotImplementedError:  # RegNet computes its widths with tensors, which fails on the meta device
                with torch.device("cpu"):
                    network = torchvision.models.get_model(model, weights=None, **settings)
                network.to(torch.get_default_device())
            _replace_stem(network, self.in_channels)
            return network

        def make(names: Sequence[str]) -> nn.Module:
            return create_feature_extractor(build(), {nodes[name].path: name for name in names})

        with torch.device("meta"):
            network = build()
            nodes = _nodes(network, self.in_channels, self.name)
            if model in INCEPTIONS:  # the weights of these networks include auxiliary classifiers
                network = torchvision.models.get_model(model, weights=None, init_weights=False)
        return Network(
            {name: node.spec for name, node in nodes.items()},
            make,
            Library("torchvision", "net.", frozenset(network.state_dict())),
            channels_last=frozenset(name for name, node in nodes.items() if node.channels_last),
        )


def _replace_stem(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by a new one with `in_channels` input channels."""
    name, stem = next((name, part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d))
    if stem.in_channels != in_channels:
        settings = {key: getattr(stem, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        parent, _, child = name.rpartition(".")
        new = nn.Conv2d(in_channels, stem.out_channels, bias=stem.bias is not None, **settings)
        setattr(network.get_submodule(parent), child, new)


def _nodes(network: nn.Module, in_channels: int, name: str) -> dict[str, _Node]:
    """For each stride, find the last node that outputs a feature map; returns a dict keyed by feature map name.

    Only outputs of complete blocks (`relu`, `Mixed_6a`, `features.6`, `layer3.5`) are considered, not outputs inside a
    block. The network must be on the meta device.
    """
    stages = {name for name, part in network.named_children() if isinstance(part, nn.Sequential | nn.ModuleList)}
    try:
        paths = get_graph_node_names(network)[1]
        extractor = create_feature_extractor(network, paths).eval()
        outputs = extractor(torch.empty(2, in_channels, *PROBE_SIZE, device="meta"))
    except Exception as error:  # tracing raises many types of errors
        height, width = PROBE_SIZE
        raise ConfigError(f"{name} does not accept images of {height}×{width} px: {describe_error(error)}") from error
    ends: dict[tuple[str, ...], str] = {}
    for path in paths:
        part, *inner = path.split(".")
        if part not in HEADS:
            ends[part, *(inner[:1] if part in stages else ())] = path
    nodes: dict[str, _Node] = {}
    for path in sorted(ends.values(), key=paths.index):
        x = outputs[path]
        if not isinstance(x, Tensor) or x.ndim != 4:
            continue
        for map_name, stride in STAGES.items():
            for channels_last in (False, True):
                rows, columns, channels = x.shape[1:] if channels_last else (*x.shape[2:], x.shape[1])
                missing = [side // stride - cells for side, cells in zip(PROBE_SIZE, (rows, columns))]
                if all(0 <= cells <= MISSING_CELLS for cells in missing):
                    nodes[map_name] = _Node(path, FeatureSpec(channels, stride), channels_last)
    return {map_name: nodes[map_name] for map_name in STAGES if map_name in nodes}
