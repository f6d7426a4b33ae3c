"""The schema of a checkpoint's training state, which only a resumed run uses. Checkpoints may be untrusted or damaged,
so the state is validated whenever a checkpoint is opened.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat, InstanceOf, ValidationError, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from chordate.errors import CheckpointError
from chordate.weights.plain_contents import is_dense

MT19937_WORDS = 624  # 32-bit words in the state of the Mersenne Twister, the generator of `random` and `numpy.random`
Count = Annotated[int, Ge(0), Le(2**53)]  # float64 represents all integers up to here
PositiveCount = Annotated[int, Ge(1), Le(2**53)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


def _numbers(value: Any) -> Any:
    """Return the value; raise ValueError unless it consists of finite numbers, dense tensors of finite numbers and None
    in lists and dicts."""
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _numbers(item)
    elif not (value is None or isinstance(value, Tensor | float | int)):
        raise ValueError(f"must consist of tensors and numbers, got {type(value).__name__}")
    elif isinstance(value, Tensor) and not is_dense(value):
        raise ValueError(f"must be a dense tensor of numbers, got {value.layout}, {value.dtype}")
    elif value is not None and not torch.as_tensor(value).isfinite().all():
        raise ValueError("must be finite")
    return value


def _words(value: Tensor) -> Tensor:
    if not (is_dense(value) and value.dtype == torch.int64 and value.shape == (MT19937_WORDS,)):
        raise ValueError(f"must be an int64 tensor of {MT19937_WORDS} words")
    if not ((value >= 0) & (value < 2**32)).all():
        raise ValueError("must be 32-bit words, from 0 to 2**32 - 1")
    return value


def _words_and_position(value: Tensor) -> Tensor:
    if value.shape != (MT19937_WORDS + 1,) or not is_dense(value):
        raise ValueError(f"must be an int64 tensor of {MT19937_WORDS} words and a position")
    _words(value[:-1])
    _position([int(value[-1]), 0, 0])
    return value


def _bytes(value: Tensor) -> Tensor:
    if not (is_dense(value) and value.dtype == torch.uint8 and value.dim() == 1):
        raise ValueError("must be a uint8 tensor with one dimension")
    return value


def _position(value: list[float]) -> list[float]:
    """Check `[position, has_gauss, gauss]` of a generator. numpy does not check the position, and would read past the
    end of the state."""
    if len(value) != 3 or type(value[0]) is not int or not 0 <= value[0] <= MT19937_WORDS:
        raise ValueError(
            f"the generator's position must be an integer 0 … {MT19937_WORDS}; "
            "numpy's `rest` must be [position, has_gauss, gauss]"
        )
    if type(value[1]) is not int or value[1] not in (0, 1) or abs(value[2]) > sys.float_info.max:
        raise ValueError("numpy's `rest` must be [position, has_gauss, gauss], with has_gauss 0 or 1")
    return value


Numbers = Annotated[Any, AfterValidator(_numbers)]
Words = Annotated[InstanceOf[Tensor], AfterValidator(_words)]
Bytes = Annotated[InstanceOf[Tensor], AfterValidator(_bytes)]


class LogRecord(_Part):
    """A record of the log; the additional fields are losses, metrics and other numbers."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, float]

    mode: Literal["train", "val"]
    epoch: Count
    iteration: Count


class BestEvaluation(_Part):
    metric: str
    score: float
    iteration: Count


class LossSums(_Part):
    sums: dict[str, FiniteFloat]
    counts: dict[str, PositiveCount]

    @model_validator(mode="after")
    def have_the_same_names(self) -> Self:
        if self.sums.keys() != self.counts.keys():
            raise ValueError("the loss log's sums and counts must have the same keys")
        return self


class OptimizerState(_Part):
    """`trained` lists the names of the optimizer's parameters. `state` maps a parameter's name to its state, which is
    empty if the parameter never had a gradient. `groups` has the values that the optimizer added to each parameter
    group."""

    type: str
    trained: list[str]
    state: dict[str, dict[str, Numbers]]
    groups: list[dict[str, Numbers]]


class PythonRandom(_Part):
    version: int
    words: Annotated[InstanceOf[Tensor], AfterValidator(_words_and_position)]
    gauss: FiniteFloat | None


class NumpyRandom(_Part):
    key: Words
    rest: Annotated[list[FiniteFloat | int], AfterValidator(_position)]


class RandomState(_Part):
    """The states of one rank's random number generators, see `data.seeding.rng_state`."""

    python: PythonRandom
    numpy: NumpyRandom
    torch: Bytes
    cuda: Bytes | None


class TrainingStateSchema(_Part):
    """The training state of a checkpoint (key `train`)."""

    iteration: Count
    steps_per_epoch: PositiveCount
    evaluated: Count
    evaluation_is_due: bool
    losses: LossSums
    optimizer: OptimizerState
    scaler: dict[str, FiniteFloat]
    best: BestEvaluation | None
    files: list[str]
    history: list[LogRecord]
    rng: list[RandomState]
    seed: int | None = None
    ema: FiniteFloat | None = None


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
        raise CheckpointError(
            f"{source}: its training state does not fit the schema ({reason}); the file is damaged"
        ) from error


def check_optimizer_state(saved: Mapping[str, Any], optimizer: Optimizer, model: nn.Module, source: str) -> None:
    """Check that a saved optimizer state has the entries that the optimizer keeps per parameter, with the same shapes.
    PyTorch's fused optimizers do not check shapes, and would write past the end of a smaller tensor.

    Args:
        saved: the saved state, a dict with the keys of OptimizerState.
        optimizer: the optimizer that continues with the state.
        model: the model that the optimizer trains.
        source: path of the checkpoint, for messages.

    Raises:
        CheckpointError: an entry is missing or has another shape, or a parameter group has a setting that only
            the config may set; the message names the entry or the setting.
    """
    configured = {*optimizer.defaults, "params", "name", "initial_lr"}
    for name in (name for group in saved["groups"] for name in group if name in configured):
        raise CheckpointError(f"{source}: train.optimizer.groups must not set {name}; the file is damaged")
    kept: dict[torch.Size, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        values = saved["state"].get(name)
        if (values is None and name in saved["trained"]) or (values == {} and optimizer.state.get(parameter)):
            raise CheckpointError(f"{source}: train.optimizer.state has no entry for {name}; the file is damaged")
        if not values:
            continue
        if parameter.shape not in kept:
            kept[parameter.shape] = _shapes_after_a_step(optimizer, parameter)
        for key, wanted in kept[parameter.shape].items():
            value = values.get(key)
            shape = (
                value.shape if isinstance(value, Tensor) else torch.Size() if isinstance(value, float | int) else None
            )
            if shape != wanted:
                actual = "nothing" if shape is None else list(shape)
                field = f"train.optimizer.state.{name}.{key}"
                raise CheckpointError(
                    f"{source}: {field} must have shape {list(wanted)}, got {actual}; the file is damaged"
                )


def _shapes_after_a_step(optimizer: Optimizer, parameter: Tensor) -> dict[str, torch.Size]:
    """The shapes of the optimizer state of `parameter` after one step of a new optimizer with the type and the defaults
    of `optimizer`. Empty if the new optimizer fails, as some optimizers of other libraries do with their defaults
    alone."""
    probe = nn.Parameter(torch.zeros_like(parameter))
    probe.grad = torch.zeros_like(probe)
    try:
        accepted = inspect.signature(type(optimizer)).parameters  # AdamW has a default that is not an argument
        settings = {name: value for name, value in optimizer.defaults.items() if name in accepted}
        other = type(optimizer)([probe], **settings)
        other.step()
    except Exception:
        return {}
    return {key: value.shape for key, value in other.state[probe].items() if isinstance(value, Tensor)}
