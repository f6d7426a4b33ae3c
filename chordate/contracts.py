"""The contracts of backbone, neck, model and metric (heads: `head_contracts`), and the checks that plugs keep them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from chordate.arguments import PositiveInt, validate_arguments
from chordate.errors import ConfigError
from chordate.structures import Batch, DatasetMeta, ImageInfo
from chordate.text import printable


@dataclass(frozen=True)
class FeatureSpec:
    """One feature map: its channels, and its stride in input pixels per feature cell."""

    channels: PositiveInt
    stride: PositiveInt

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

    A subclass sets `out_features` in `__init__`, ordered fine to coarse and named `c1` … `c5` after the stages of the
    FPN paper (Lin et al. 2017, section 3); `forward` returns the same names, map
    `[N, channels, ceil(H / stride), ceil(W / stride)]` for normalized images `[N, in_channels, H, W]`. A backbone for
    other inputs (clips `[N, C, T, H, W]`) overrides `input_shape`; its maps may have dimensions between the channels
    and the two spatial ones.
    """

    out_features: Mapping[str, FeatureSpec]
    name: str = ""  # for messages: "ResNet-50"; empty for the class's name
    in_channels: int = 3
    pretrained: str | bool | None = None  # where to load weights from, set by the registry from the config
    default_weights: str | None = None  # what `pretrained=True` means, set by the registry from the variant
    library: Library | None = None  # the library that built the network, if another one did

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one input of this size, without the batch dimension."""
        return self.in_channels, height, width

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width of the images that it was designed for: 32 px (CIFAR) without coarse maps, else 224."""
        side = 32 if list(self.out_features.values())[-1].stride < 8 else 224
        return side, side

    def pop_stage(self, name: str) -> Backbone:
        """Remove the last stage, which makes the map `name`, and return it as a backbone on the map before it.

        Raises:
            ConfigError: this backbone cannot be divided so.
        """
        raise ConfigError(f"{offered(self).source} has no stage that can be removed; resnet50 has")


class Neck(nn.Module):
    """Feature maps to feature maps: takes `in_features` first, and offers `out_features` like a backbone."""

    out_features: Mapping[str, FeatureSpec]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


class Model(nn.Module):
    """A whole model: its losses for a training batch, its predictions for any.

    A subclass takes `meta` first, then its parts, and builds them through the registries. Its `forward` is what
    DistributedDataParallel and torch.compile wrap; everything else calls `loss` and `predict`, which depend on the
    arguments alone and not on one another.
    """

    meta: DatasetMeta
    backbone: Any  # a Backbone, where the model has one
    load_report: Any = None  # LoadReport of the checkpoint that `build_model` loaded
    pretrained_reports: Sequence[Any] = ()  # and of the backbones' own weights
    size_divisor: int = 1  # the loader pads images to multiples of this
    example_size: tuple[int, int] = (224, 224)  # height and width that `chordate summary` counts with
    pipeline: Sequence[Any] = ()  # the test pipeline of its config, for `predict` on files

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of `meta`, by label."""
        return self.meta.classes

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses by name, summed by the trainer; values without a gradient are only logged."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Any]:
        """One Prediction per image, in pixels of the original image."""
        raise NotImplementedError

    def feature_specs(self) -> Mapping[str, FeatureSpec]:
        """The maps that `chordate summary` lists; by default the backbone's, none without one."""
        backbone = self._modules.get("backbone")
        return backbone.out_features if isinstance(backbone, Backbone) else {}

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        """The backbone's maps for a batch, by name.

        Raises:
            ConfigError: this model gives none.
        """
        raise ConfigError(f"{type(self).__name__} gives no features; define backbone_features in it")

    def embed(self, batch: Batch) -> Tensor | None:
        """One vector per image, `[N, C]`, that the last layer reads; None for a model without such."""
        return None

    def augment_batch(self, batch: Batch) -> Batch:
        """Augmentation of a whole training batch, such as MixUp; training and `chordate browse` do it before `loss`.

        Pixels are as in the batch, 0 … 255, before normalization. By default the batch itself.
        """
        return batch

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[Any]:
        return self.loss(self.augment_batch(batch)) if self.training else self.predict(batch)

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one input of this size, without the batch dimension; by default the backbone's."""
        backbone = self._modules.get("backbone")
        return backbone.input_shape(height, width) if isinstance(backbone, Backbone) else (3, height, width)

    def example_batch(self, height: int, width: int) -> Batch:
        """One blank input of this size, on the model's device."""
        device = next(self.parameters()).device
        images = torch.zeros(1, *self.input_shape(height, width), device=device)
        sizes = torch.tensor([[height, width]], device=device)
        return Batch(images, sizes, [ImageInfo(0, "blank", height, width)])


class Metric:
    """Collects predictions batch by batch and computes numbers from them, the same on every rank.

    A subclass takes the data set as the keyword `dataset` first. After `compute`, the other methods describe the same
    predictions, until the next `compute`.

    Attributes:
        numbers: what the last `compute` returned; it sets them.
        lower_is_better: names of the numbers that are better when lower, for `train.save_best` and EarlyStopping.
    """

    numbers: Mapping[str, float] = MappingProxyType({})
    lower_is_better: Sequence[str] = ()

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Take in the predictions of one batch, one Prediction per image in the order of the images."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The numbers over all ranks by name, and a fresh start."""
        raise NotImplementedError

    def table(self) -> RenderableType:
        """The last numbers for the terminal; a plain table by default."""
        table = Table("metric", "value")
        for name, value in self.numbers.items():
            table.add_row(Text(printable(name)), f"{value:.4f}")
        return table

    def save_predictions(self, path: str | Path) -> None:
        """Write the last predictions as JSON.

        Raises:
            ConfigError: this metric keeps none.
        """
        raise ConfigError(f"--predictions: {type(self).__name__} keeps none")

    def report(self) -> Any:
        """More about the last numbers, drawn by `visualization.plot_report`; None where there is no more."""
        return None


def offered(part: nn.Module) -> FeatureSpecs:
    """What `part` offers to the next part, with its name for error messages.

    Raises:
        ConfigError: the part does not keep the contract: `out_features` is missing, empty, or not FeatureSpecs of
            positive numbers.
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
def check_outputs(backbone: nn.Module, in_channels: int | None = None) -> None:
    """Check a backbone's `out_features` by one forward pass on the meta device (shapes only, no arithmetic).

    Args:
        backbone: as built.
        in_channels: of the images that the model will give it; None for the backbone's own.

    Raises:
        ConfigError: a map is missing, or has other channels or another stride than was said.
    """
    specs = offered(backbone)
    side = 2 * max(64, *(spec.stride for spec in specs.values()))
    shape = backbone.input_shape(side, side) if isinstance(backbone, Backbone) else (3, side, side)
    shape = (2, shape[0] if in_channels is None else in_channels, *shape[1:])
    state = {k: v.to("meta") for k, v in [*backbone.named_parameters(), *backbone.named_buffers()]}
    was_training = backbone.training
    backbone.eval()
    try:
        images = torch.empty(*shape, device="meta")
        outputs = torch.func.functional_call(backbone, state, (images,))
    except NotImplementedError:  # an operator without a meta kernel: nothing can be said
        return
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{specs.source}: forward fails for images {list(shape)}: {error}") from error
    finally:
        backbone.train(was_training)
    for name, spec in specs.items():
        if not isinstance(outputs, Mapping) or name not in outputs:
            given = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ConfigError(f"{specs.source} promises {name} ({spec}), but its forward returned {given}")
        got = tuple(outputs[name].shape)
        want = (2, spec.channels, side // spec.stride, side // spec.stride)
        if (*got[:2], *got[-2:]) != want or len(got) != len(shape):
            raise ConfigError(
                f"{specs.source} promises {name} ({spec}), so {list(want)} for images of {side} px, "
                f"but its forward gave {list(got)}"
            )


def check_implements(plug: object, contract: type, methods: Sequence[str]) -> None:
    """Check that a plug is derived from the class of its contract and has its own `methods`.

    Raises:
        ConfigError: it is not, or does not implement one.
    """
    cls = type(plug)
    if not isinstance(plug, contract):
        raise ConfigError(f"{cls.__name__} is no {contract.__name__}: derive it from chordate.{contract.__name__}")
    missing = [name for name in methods if getattr(cls, name) is getattr(contract, name)]
    if missing:
        raise ConfigError(f"{cls.__name__} does not implement {contract.__name__}.{missing[0]}, which it must")


def compute_numbers(metric: Metric) -> dict[str, float]:
    """What `metric.compute` gives.

    Raises:
        ConfigError: that is not numbers by name.
    """
    numbers, name = metric.compute(), type(metric).__name__
    if not isinstance(numbers, Mapping) or not all(isinstance(key, str) for key in numbers):
        raise ConfigError(f"{name}.compute must return numbers by name, got {type(numbers).__name__}")
    for key, value in numbers.items():
        if not isinstance(value, Real):
            raise ConfigError(f"{name}.compute must return numbers, but {key} is a {type(value).__name__}; use float()")
    return {key: float(value) for key, value in numbers.items()}
