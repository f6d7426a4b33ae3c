"""The schema of Chordate's own checkpoints. Files may be untrusted or damaged, so their contents are validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, InstanceOf, ValidationError, model_validator
from torch import Tensor, nn

from chordate.arguments import NonNegativeInt, PositiveInt
from chordate.errors import CheckpointError, DataError
from chordate.structures import DatasetMeta
from chordate.weights.checkpoint_sources import source_of

FORM = 2
# The keys of our own checkpoints, and the types of their values. `ema` is the averaged weights; `config` is text for
# reference and never executed; `train` is a TrainingStateSchema.
_PARTS: dict[str, tuple[type, ...]] = {
    "model": (Mapping,),
    "ema": (Mapping, type(None)),
    "meta": (Mapping,),
    "config": (str, type(None)),
    "train": (Mapping, type(None)),
}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


def _numbers(value: Any) -> Any:
    """Return the value; raise ValueError unless it consists of tensors, numbers and None in lists and dicts."""
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _numbers(item)
    elif not (value is None or isinstance(value, Tensor | float | int)):
        raise ValueError(f"must be tensors and numbers, got {type(value).__name__}")
    return value


class LogRecord(_Part):
    """A record of the log; the additional fields are losses, metrics and other numbers."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, float]

    mode: Literal["train", "val"]
    epoch: int
    iteration: int


class BestEvaluation(_Part):
    metric: str
    score: float
    iteration: int


class LossSums(_Part):
    sums: dict[str, float]
    counts: dict[str, PositiveInt]

    @model_validator(mode="after")
    def have_the_same_names(self) -> Self:
        if self.sums.keys() != self.counts.keys():
            raise ValueError("the loss log's sums and counts must have the same keys")
        return self


class OptimizerState(_Part):
    """`state` is keyed by parameter name; `groups` are the values that the optimizer added to its parameter groups."""

    type: str
    trained: list[str]
    state: dict[str, dict[str, Annotated[Any, AfterValidator(_numbers)]]]
    groups: list[dict[str, Annotated[Any, AfterValidator(_numbers)]]]


class PythonRandom(_Part):
    version: int
    words: InstanceOf[Tensor]
    gauss: float | None


class NumpyRandom(_Part):
    key: InstanceOf[Tensor]
    rest: list[float]


class RandomState(_Part):
    """The states of one rank's random number generators, see `data.seeding.rng_state`."""

    python: PythonRandom
    numpy: NumpyRandom
    torch: InstanceOf[Tensor]
    cuda: InstanceOf[Tensor] | None


class TrainingStateSchema(_Part):
    """The training state of a checkpoint (key `train`), which only a resumed run reads."""

    iteration: NonNegativeInt
    steps_per_epoch: PositiveInt
    evaluated: NonNegativeInt
    evaluation_is_due: bool
    losses: LossSums
    optimizer: OptimizerState
    scaler: dict[str, float]
    best: BestEvaluation | None
    files: list[str]
    history: list[LogRecord]
    rng: list[RandomState]
    seed: int | None = None
    ema: float | None = None


def checkpoint_meta(contents: Mapping[str, Any]) -> DatasetMeta | None:
    """The metadata of the dataset that one of our checkpoints was trained on; None for checkpoints of other
    libraries.

    Raises:
        CheckpointError: the checkpoint is our own, but has another format version, or a value has the wrong type.
    """
    if "chordate" not in contents:
        return None
    source, form = source_of(contents), contents["chordate"]
    if type(form) is not int:
        raise CheckpointError(
            f"{source} is not a complete Chordate checkpoint: its format version is {form!r:.40}, not {FORM}"
        )
    if form < FORM:
        raise CheckpointError(f"{source} has format {form}, which is no longer supported; train again")
    if form > FORM:
        raise CheckpointError(f"{source} is from a newer Chordate (this one reads format {FORM}); update Chordate")
    for part, kinds in _PARTS.items():
        if not isinstance(contents.get(part), kinds):
            raise CheckpointError(
                f"{source} is not a complete Chordate checkpoint: its {part} has the type "
                f"{type(contents.get(part)).__name__}; use the file that training wrote"
            )
    for part in ("model", "ema"):
        for name, value in (contents.get(part) or {}).items():
            if not isinstance(value, Tensor) and not str(name).endswith("_extra_state"):  # from get_extra_state
                raise CheckpointError(
                    f"{source} is not a complete Chordate checkpoint: its {part}[{name!r}] must be a "
                    f"tensor, but has the type {type(value).__name__}; use the file that training wrote"
                )
    try:
        return DatasetMeta.from_dict(contents["meta"], source)
    except DataError as error:
        raise CheckpointError(str(error)) from error


def check_training_state(state: Any, source: str) -> None:
    """Validate the training state of a checkpoint.

    Args:
        state: value of the checkpoint's key `train`.
        source: path of the checkpoint, for messages.

    Raises:
        CheckpointError: `state` does not fit TrainingStateSchema; the message names `source` and the field.
    """
    try:
        TrainingStateSchema.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, ("train", *first["loc"])))
        reason = f"{field}: {first['msg']}"
        raise CheckpointError(f"{source}: its training state does not fit the schema ({reason})") from error


def check_optimizer_state(state: Mapping[str, Mapping[str, Any]], model: nn.Module, source: str) -> None:
    """Check the shapes in an optimizer's state: if an entry, such as `exp_avg`, has the shape of its parameter for one
    parameter, it must have it for all. PyTorch's fused optimizers do not check shapes, and would write past the end of
    a smaller tensor.

    Args:
        state: entries keyed by parameter name.
        model: the model that the optimizer trains.
        source: path of the checkpoint, for messages.

    Raises:
        CheckpointError: an entry has another shape; the message names the entry.
    """
    parameters = {name: p for name, p in model.named_parameters() if name in state and p.numel() > 1}
    tensors = [
        (key, name, value.shape, parameter.shape)
        for name, parameter in parameters.items()
        for key, value in state[name].items()
        if isinstance(value, Tensor)
    ]
    shaped = {key for key, _, shape, wanted in tensors if shape == wanted}
    for key, name, shape, wanted in tensors:
        if key in shaped and shape != wanted:
            field = f"train.optimizer.state.{name}.{key}"
            raise CheckpointError(f"{source}: {field} must be {list(wanted)}, got {list(shape)}; the file is damaged")
