"""What a backbone, a neck and a head promise, and the checks that two parts fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chordate.errors import ConfigError
from chordate.structures import Detections, InstanceTargets, Proposals, SampledRoIs


@dataclass(frozen=True)
class FeatureSpec:
    """One feature map: its channels, and its stride in input pixels per feature cell."""

    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.channels} ch, stride {self.stride}"


class FeatureSpecs(dict[str, FeatureSpec]):
    """The maps that one part offers to the next, ordered fine to coarse, and the name of that part."""

    def __init__(self, specs: Mapping[str, FeatureSpec], source: str):
        super().__init__(specs)
        self.source = source

    def __str__(self) -> str:
        return f"{self.source} offers " + ", ".join(f"{name} ({spec})" for name, spec in self.items())


@dataclass(frozen=True)
class Library:
    """Where a backbone's network comes from, if another library built it.

    Attributes:
        name: "torchvision", "timm".
        prefix: what stands before the library's own names in the backbone's state dict.
        tensors: all names of the library's whole network; the backbone has those that its maps need.
    """

    name: str
    prefix: str
    tensors: frozenset[str]


class Backbone(nn.Module):
    """Images to feature maps.

    A subclass sets `out_features` in `__init__`, ordered fine to coarse and named `c1` … `c5` after the
    stages of the FPN paper (Lin et al. 2017, section 3); `forward` returns the same names, map
    `[N, channels, ceil(H / stride), ceil(W / stride)]` for normalised images `[N, 3, H, W]`.
    """

    out_features: Mapping[str, FeatureSpec]
    pretrained: str | bool | None = None  # where to load weights from, set by the registry from the config
    default_weights: str | None = None  # what `pretrained=True` stands for, set by the registry from the variant
    library: Library | None = None  # whose the network is, if another library's

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def split(self, name: str) -> Backbone:
        """Take out the last stage, which gives the map `name`: this backbone then ends with the map before it.

        Returns:
            A backbone of that stage alone; it takes the map before in place of images.

        Raises:
            ConfigError: this one cannot be divided so.
        """
        raise ConfigError(f"{offered(self).source} has no stage that can be taken out of it; resnet50 has")


class Neck(nn.Module):
    """Feature maps to feature maps: takes `in_features` first, and offers `out_features` like a backbone."""

    out_features: Mapping[str, FeatureSpec]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


class ProposalHead(Protocol):
    """Finds boxes that may hold an object (an RPN). `forward` is dense, `loss` trains it, `predict` proposes."""

    def __call__(self, features: dict[str, Tensor]) -> Any: ...
    def loss(self, outputs: Any, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]: ...
    def predict(self, outputs: Any, sizes: Tensor) -> Proposals: ...


class RoIHead(Protocol):
    """The box head: `sample` draws the regions that it and the heads beside it learn from, `loss` learns from them,
    `predict` gives detections in pixels of the padded batch."""

    nms_threshold: float  # IoU of two detections of a class, above which the worse one goes
    detections_per_image: int  # the best so many are kept

    def loss(self, features: dict[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]: ...
    def predict(self, features: dict[str, Tensor], proposals: Proposals) -> list[Detections]: ...
    def sample(self, proposals: Proposals, targets: InstanceTargets) -> SampledRoIs: ...


class RegionHead(Protocol):
    """A box head whose trunk another head may share: `regions` is what it makes of `R` boxes, `[R, C, S, S]`."""

    trunk: Any  # with `out_channels`

    def regions(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor: ...


class InstanceHead(Protocol):
    """Says more of what the box head found: a mask, keypoints. `loss` learns from the box head's sample; `predict`
    gives maps `[D, …, S, S]`, laid over the boxes of the `D` detections of each image (pixels of the padded batch)."""

    def loss(self, features: dict[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]: ...
    def predict(self, features: dict[str, Tensor], detections: list[Detections]) -> list[Tensor]: ...


class DenseHead(Protocol):
    """Finds objects at every anchor, in one stage. `forward` is dense."""

    nms_threshold: float  # as of RoIHead
    detections_per_image: int

    def __call__(self, features: dict[str, Tensor]) -> Any: ...
    def loss(self, outputs: Any, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]: ...
    def predict(self, outputs: Any, sizes: Tensor) -> list[Detections]: ...


def offered(part: nn.Module) -> FeatureSpecs:
    """What `part` offers to the next part, with its name for error messages.

    Raises:
        ConfigError: the part does not keep the contract: `out_features` is missing, empty or not FeatureSpecs.
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
    return FeatureSpecs(specs, name)


def select(in_features: Mapping[str, FeatureSpec], names: Iterable[str], wanted_by: str) -> dict[str, FeatureSpec]:
    """The maps `names` of `in_features`, in that order.

    Raises:
        ConfigError: a name is not on offer; the message names both parts, what was wanted and what there is.
    """
    names = list(names)
    missing = [name for name in names if name not in in_features]
    if missing:
        offer = in_features if isinstance(in_features, FeatureSpecs) else FeatureSpecs(in_features, "the part before")
        wanted = ", ".join(f'"{name}"' for name in names)
        raise ConfigError(f'{wanted_by}(in=[{wanted}]): {offer}; no "{missing[0]}"')
    return {name: in_features[name] for name in names}


@torch.no_grad()
def check_outputs(backbone: nn.Module, in_channels: int = 3) -> None:
    """Hold a backbone to its own `out_features` by one pass on the meta device (shapes only, no arithmetic).

    Raises:
        ConfigError: a map is missing, or has other channels or another stride than was said.
    """
    specs = offered(backbone)
    side = 2 * max(64, *(spec.stride for spec in specs.values()))
    state = {k: v.to("meta") for k, v in [*backbone.named_parameters(), *backbone.named_buffers()]}
    was_training = backbone.training
    backbone.eval()
    try:
        images = torch.empty(2, in_channels, side, side, device="meta")
        outputs = torch.func.functional_call(backbone, state, (images,))
    except NotImplementedError:  # an operator without a meta kernel: nothing can be said
        return
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{specs.source}: forward fails for images [2, {in_channels}, {side}, {side}]: {error}"
        ) from error
    finally:
        backbone.train(was_training)
    for name, spec in specs.items():
        if not isinstance(outputs, Mapping) or name not in outputs:
            given = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ConfigError(f"{specs.source} promises {name} ({spec}), but its forward returned {given}")
        got = tuple(outputs[name].shape)
        want = (2, spec.channels, side // spec.stride, side // spec.stride)
        if got != want:
            raise ConfigError(
                f"{specs.source} promises {name} ({spec}), so {list(want)} for images of {side} px, "
                f"but its forward gave {list(got)}"
            )
