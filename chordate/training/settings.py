"""The `train` section of a config: its settings, and when evaluations and checkpoints are due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from chordate.arguments import NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt, Seed, validate_settings
from chordate.errors import ConfigError


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run. An iteration is one optimizer step, over `accumulate` batches.

    Attributes:
        epochs, iterations: length of the training; exactly one must be set. Its unit is also the unit of `eval_every`,
            `save_every` and a schedule's milestones.
        seed: random seed for initial weights, dropout, and the loader's image order and augmentation.
        amp: mixed precision, "bf16" (CPU or GPU) or "fp16" (GPU); None is full precision.
        channels_last: whether to use the NHWC memory layout for images and weights; "auto" chooses the faster layout.
        compile: whether to compile the model for training; a dict contains arguments for torch.compile.
        accumulate: number of batches whose gradients are averaged in one iteration.
        clip_norm: maximum global norm of the gradients; None for no clipping.
        ema: decay of the moving average of the weights, which evaluations use; None for no average.
        sync_bn: whether to compute BatchNorm's batch statistics over all ranks (GPU only).
        eval_every, save_every: period of evaluations and checkpoints; None for every epoch and the end, 0 for the end
            only.
        save_every_iterations: additional period of checkpoints, in iterations; None for no additional checkpoints.
        keep: number of newest checkpoints to keep (in addition to the best checkpoint); None keeps all.
        save_best: name of a metric; the checkpoint with its best value is kept as `best_<metric>.pt`.
        log_every: number of iterations between log lines.
        tensorboard: whether to write TensorBoard event files (the callback TensorBoardLogger).
        load_from: path or URL of a checkpoint of any known format that initializes the whole model, even if its
            classes differ.
    """

    epochs: PositiveInt | None = None
    iterations: PositiveInt | None = None
    seed: Seed = 0
    amp: Literal["bf16", "fp16"] | None = None
    channels_last: bool | Literal["auto"] = False
    compile: bool | Mapping[str, Any] = False
    accumulate: PositiveInt = 1
    clip_norm: PositiveFloat | None = None
    ema: OpenFraction | None = None
    sync_bn: bool = False
    eval_every: NonNegativeInt | None = None
    save_every: NonNegativeInt | None = None
    save_every_iterations: PositiveInt | None = None
    keep: PositiveInt | None = 2
    save_best: str | None = None
    log_every: PositiveInt = 50
    tensorboard: bool = True
    load_from: str | None = None

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None) -> Self:
        """Validate a config's `train` section. Raises ConfigError for unknown settings and invalid values."""
        return validate_settings(cls, section, "train")

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise ConfigError("train: set either epochs or iterations, and the other to None (train.epochs=None)")

    @property
    def by_epoch(self) -> bool:
        """Whether the length of training is set in epochs (otherwise in iterations)."""
        return self.epochs is not None

    def length(self, steps_per_epoch: int) -> int:
        """Number of iterations of the whole training."""
        return self.in_iterations(self.epochs if self.epochs is not None else self.iterations or 0, steps_per_epoch)

    def in_iterations(self, count: int, steps_per_epoch: int) -> int:
        """Convert `count` to iterations. The unit of `count` is that of the training's length: epochs or iterations."""
        return count * steps_per_epoch if self.by_epoch else count

    def is_due(self, every: int | None, iteration: int, steps_per_epoch: int) -> bool:
        """Whether an action with the period `every` (see `eval_every`) is due after `iteration` iterations."""
        if iteration == self.length(steps_per_epoch):
            return True
        period = steps_per_epoch if every is None else self.in_iterations(every, steps_per_epoch)
        return period > 0 and iteration % period == 0
