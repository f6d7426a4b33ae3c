"""The contracts (base classes) of models and metrics, and checks that implementations fulfill them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError, TrainingError
from chordate.structures import Batch, DatasetMeta, ImageInfo
from chordate.text import format_metric, printable

RECORD_KEYS = ("mode", "epoch", "iteration")  # fields of every record of a run's log, besides losses and metrics


class Model(nn.Module):
    """Base class of models: computes losses for training batches, and predictions for any batch.

    The first argument of a subclass's constructor is `meta`, followed by the configs of its parts (backbone, heads …),
    which it builds through the registries.

    `forward` returns the losses of the augmented batch in training mode, and predictions in evaluation mode. The
    trainer calls `forward`, since DistributedDataParallel and torch.compile wrap it; all other code calls `loss` and
    `predict`.
    """

    meta: DatasetMeta
    backbone: Any  # a Backbone, if the model has one
    load_report: Any = None  # LoadReport of the checkpoint that `build_model` loaded
    pretrained_reports: Sequence[Any] = ()  # LoadReports of the backbones' pretrained weights
    size_divisor: int = 1  # the loader pads images to multiples of this
    exports_sizes: bool = False  # whether exported models take padded images, and their unpadded sizes as an input
    # Height and width of the inputs of `chordate summary` and `chordate export` if the test pipeline sets no size.
    example_size: tuple[int, int] = (224, 224)
    pipeline: Sequence[Any] = ()  # the test pipeline of the model's config, which `chordate.predict` applies

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of `meta`, indexed by label."""
        return self.meta.classes

    @property
    def detections_per_image(self) -> int | None:
        """The largest number of objects that `predict` returns per image; None if there is no limit."""
        return None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses keyed by name. The trainer minimizes their sum; values without a gradient are only logged."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Any]:
        """One Prediction per image, in pixels of the original image."""
        raise NotImplementedError

    def predict_tensors(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """The predictions as named tensors `[N, …]` whose shapes do not depend on values; `chordate export` writes a
        graph of this method.

        Coordinates are in pixels of the batch. By default, stacks the tensors of `predict`'s Predictions; this requires
        that the control flow of `predict` does not depend on values, and fixes the batch size of the graph.

        Args:
            images: `[N, C, H, W]` uint8, padded to multiples of `size_divisor`.
            sizes: `[N, 2]` int64, heights and widths without padding.
        """
        height, width = images.shape[-2:]
        infos = [ImageInfo(number, "", height, width) for number in range(len(images))]
        predictions = [_fields(one) for one in self.predict(Batch(images, sizes, infos))]
        return {name: torch.stack([one[name] for one in predictions]) for name in predictions[0]}

    def from_tensors(self, tensors: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        """Convert the outputs of `predict_tensors` to the Predictions of the batch, in pixels of the original images.

        By default, the tensors become the fields of the Predictions without a change of coordinates, and `predict` is
        called to find the type of the Predictions.
        """
        kinds = map(type, self.predict(batch))
        return [kind(**{name: values[i] for name, values in tensors.items()}) for i, kind in enumerate(kinds)]

    def dense_parts(self) -> list[nn.Module]:
        """The modules that `chordate.optimize` compiles; by default the backbone and the neck. They should take most of
        the time of `predict`, and the shapes of their outputs must not depend on values."""
        return [part for name in ("backbone", "neck") if (part := self._modules.get(name)) is not None]

    def feature_specs(self) -> Mapping[str, FeatureSpec]:
        """The feature maps that `chordate summary` lists; by default the feature maps of the backbone, if any."""
        backbone = self._modules.get("backbone")
        return backbone.out_features if isinstance(backbone, Backbone) else {}

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        """The feature maps of the backbone for a batch, keyed by name.

        Raises:
            ConfigError: the model does not implement this method.
        """
        raise ConfigError(f"{type(self).__name__} does not return feature maps; implement its method backbone_features")

    def embed(self, batch: Batch) -> Tensor | None:
        """The input `[N, C]` of the last layer, one vector per image; None (the default) if there is no such vector."""
        return None

    def augment_batch(self, batch: Batch) -> Batch:
        """Augment a whole training batch, for example by MixUp; `forward` calls it before `loss`, and `chordate browse`
        before drawing.

        Pixels are 0 … 255, before normalization. By default, the batch is returned unchanged.
        """
        return batch

    def forward(self, batch: Batch, *others: Any) -> dict[str, Tensor] | list[Any]:
        check_batch(self, batch, *others)
        return self.loss(self.augment_batch(batch)) if self.training else self.predict(batch)

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one input without the batch dimension; by default the backbone's `input_shape`."""
        backbone = self._modules.get("backbone")
        return backbone.input_shape(height, width) if isinstance(backbone, Backbone) else (3, height, width)

    def example_batch(self, height: int, width: int) -> Batch:
        """One input of zeros with the given height and width, on the model's device."""
        device = next(self.parameters()).device
        images = torch.zeros(1, *self.input_shape(height, width), device=device)
        sizes = torch.tensor([[height, width]], device=device)
        return Batch(images, sizes, [ImageInfo(0, "blank", height, width)])


def _fields(prediction: Any) -> dict[str, Tensor]:
    """The tensors of a Prediction keyed by the names of their fields."""
    return {name: value for name, value in vars(prediction).items() if isinstance(value, Tensor)}


class TopDownModel(Model):
    """Base class of models whose images are crops of one object each; `chordate.predict` takes boxes for them."""

    def merge_crops(self, predictions: Sequence[Any]) -> Any:
        """Merge the predictions for the crops of one image (possibly none) into one Prediction."""
        raise NotImplementedError


class Metric:
    """Base class of metrics: collects predictions batch by batch, and computes values that are equal on all ranks.

    The constructor of a subclass receives the dataset as the keyword argument `dataset`. `table`, `save_predictions`
    and `report` refer to the last `compute`.

    Attributes:
        numbers: mapping from name to value, the result of the last `compute`, which must set it.
        lower_is_better: names of the values for which lower is better; used by `train.save_best` and EarlyStopping.
    """

    numbers: Mapping[str, float] = MappingProxyType({})
    lower_is_better: Sequence[str] = ()

    def check_model(self, model: Model) -> None:
        """Warn about model settings that limit the metrics; by default, do nothing. Called once before evaluation."""

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Collect the predictions of one batch, one Prediction per image in the order of the images."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Compute the values over the predictions of all ranks, and discard the collected predictions.

        Returns:
            Mapping from name to value.
        """
        raise NotImplementedError

    def table(self) -> RenderableType:
        """Format `numbers` for the terminal; by default as a table of names and values."""
        table = Table("metric", "value")
        for name, value in self.numbers.items():
            table.add_row(Text(printable(name)), format_metric(value))
        return table

    def keep_predictions(self, path: str | Path) -> None:
        """Prepare for an evaluation whose predictions will be saved; metrics keep large predictions only then.

        Args:
            path: the path for `save_predictions`.

        Raises:
            ConfigError: the metric cannot save predictions, or not to this path.
        """
        if type(self).save_predictions is Metric.save_predictions:
            self.save_predictions(path)  # the base class's method raises ConfigError
        if Path(path).is_dir():
            raise ConfigError(f"{path} is a folder; name the file to write")

    def save_predictions(self, path: str | Path) -> None:
        """Write the predictions of the last `compute` to `path`: a JSON file, or a file or folder in the task's format.

        Raises:
            ConfigError: the metric cannot save predictions.
        """
        raise ConfigError(
            f"--predictions: {type(self).__name__} does not save predictions; implement its method save_predictions"
        )

    def report(self) -> Any:
        """Details for `visualization.plot_report` to draw, such as curves; None if the metric has no report."""
        return None


def check_implements(plug: object, contract: type, methods: Sequence[str]) -> None:
    """Check that an object is an instance of the base class `contract` and overrides the required `methods`, and that
    its methods can be called with the arguments of the base class's methods.

    Raises:
        ConfigError: the object is not an instance of `contract`, does not override a method, or a method takes other
            arguments.
    """
    cls = type(plug)
    if not isinstance(plug, contract):
        base = f"{contract.__module__}.{contract.__name__}"
        raise ConfigError(f"{cls.__name__} is not a subclass of {contract.__name__}: derive it from {base}")
    missing = [name for name in methods if getattr(cls, name) is getattr(contract, name)]
    if missing:
        raise ConfigError(f"{cls.__name__} does not implement {contract.__name__}.{missing[0]}, which is required")
    for name, method in vars(contract).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            wanted = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
            own = inspect.signature(getattr(plug, name))
            try:
                own.bind(*wanted)
            except TypeError:
                takes = f"must take ({', '.join(wanted)}), but takes ({', '.join(own.parameters)})"
                raise ConfigError(f"{cls.__name__}.{name} {takes}") from None


def check_batch(model: Model, batch: Any, *others: Any) -> None:
    """Raise ConfigError unless `model` was called with one Batch and nothing else; `others` are further arguments."""
    if others or not isinstance(batch, Batch):
        name, got = type(model).__name__, ", ".join(type(value).__name__ for value in (batch, *others))
        remedy = (
            "model.loss(batch), whose Batch has images and targets" if others else "chordate.predict(model, images)"
        )
        raise ConfigError(f"{name} takes a Batch, got {got}; use {remedy}")


def check_number_names(names: Iterable[str], source: str) -> None:
    """Raise ConfigError if a loss or metric has the name of another log field; the message starts with `source`."""
    reserved = [name for name in names if name in RECORD_KEYS]
    if reserved:
        raise ConfigError(f'{source} must not be named "{reserved[0]}", a field of every log record; rename it')


def total_loss(losses: Any, trained: Mapping[str, bool] | None = None, source: str = "Model.loss") -> Tensor:
    """The sum of a model's losses, except values without a gradient (such as an error rate, which is only logged).

    If no value has a gradient, all values are summed.

    Args:
        losses: scalar losses keyed by name.
        trained: mapping from name to whether the loss has a gradient in training; None to use `requires_grad` of
            `losses`.
        source: the method that computed the losses, for the message.

    Raises:
        TrainingError: `losses` is empty or not a dict of scalars, or one of several losses is named "loss".
    """
    if not isinstance(losses, Mapping) or not losses:
        got = "an empty dict" if isinstance(losses, Mapping) else type(losses).__name__
        raise TrainingError(f"{source} must return a dict of losses, not {got}")
    if "loss" in losses and len(losses) > 1:
        raise TrainingError('one of the losses is named "loss", which is the name of their sum; rename it')
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TrainingError(f'loss "{name}" is not a scalar tensor but {shape}; return a scalar, such as the mean')
    if trained is None:
        trained = {name: value.requires_grad for name, value in losses.items()}
    summands = [value for name, value in losses.items() if trained.get(name)] or losses.values()
    return torch.stack([value.float().reshape(()) for value in summands]).sum()


def compute_numbers(metric: Metric) -> dict[str, float]:
    """Call `metric.compute`, and check that the result is a dict of numbers.

    Raises:
        ConfigError: the result is not a dict of numbers, or a name is reserved for another field of log records.
    """
    numbers, name = metric.compute(), type(metric).__name__
    if not isinstance(numbers, Mapping):
        raise ConfigError(f"{name}.compute must return a dict of numbers, got {type(numbers).__name__}")
    for key, value in numbers.items():
        if not isinstance(key, str):
            raise ConfigError(
                f"{name}.compute must return a dict from names to numbers, but its key {key!r} is not a str"
            )
        if not isinstance(value, Real):
            raise ConfigError(f"{name}.compute must return numbers, but {key} is a {type(value).__name__}; use float()")
    check_number_names(numbers, f"{name}: a metric")
    return {key: float(value) for key, value in numbers.items()}
