"""The `train` section of a config: its settings, and when evaluations and checkpoints are due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from chordate.arguments import NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt, Seed, validate_settings
from chordate.errors import ConfigError


@dataclass(frozen=True)
class TrainSettings:
    """How a run trains. An iteration is one step of the optimizer, over `accumulate` batches.

    Attributes:
        epochs, iterations: length of the training; exactly one is set. `eval_every`, `save_every` and a schedule's
            milestones count in the same unit.
        seed: random seed of initial weights, dropout and, through the loader, order and augmentation.
        amp: mixed precision, "bf16" (CPU or GPU) or "fp16" (GPU); None is full precision.
        channels_last: lay out images and weights as NHWC; "auto" if that trains faster.
        compile: compile the model for training: True, or a dict of torch.compile's arguments.
        accumulate: batches whose gradients are averaged in one iteration.
        clip_norm: largest global norm of the gradients; None does not clip.
        ema: decay of the moving average of the weights, which evaluations then use; None for no average.
        sync_bn: batch statistics over all ranks (GPU).
        eval_every, save_every: None for once per epoch and at the end; 0 for the end only.
        save_every_iterations: save within epochs too, after this many iterations.
        keep: how many of the newest checkpoints to keep (in addition to the best one); None keeps all.
        save_best: a metric; the checkpoint with its best value is kept as `best_<metric>.pt`.
        log_every: iterations between two lines of the log.
        tensorboard: write TensorBoard event files (the callback TensorBoardLogger).
        load_from: a checkpoint of any known format that initializes the whole model, even if its classes differ.
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
        """The settings of a config's `train` section. A ConfigError names unknown settings and invalid values."""
        return validate_settings(cls, section, "train")

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise ConfigError("train: set either epochs or iterations, and the other to None (train.epochs=None)")

    @property
    def by_epoch(self) -> bool:
        """Whether training is measured in epochs (else in iterations)."""
        return self.epochs is not None

    def length(self, steps_per_epoch: int) -> int:
        """The whole training, in iterations."""
        return self.in_iterations(self.epochs if self.epochs is not None else self.iterations or 0, steps_per_epoch)

    def in_iterations(self, count: int, steps_per_epoch: int) -> int:
        """Convert a count in the unit that training is measured in to iterations."""
        return count * steps_per_epoch if self.by_epoch else count

    def is_due(self, every: int | None, iteration: int, steps_per_epoch: int) -> bool:
        """Whether an action with the period `every` (epochs or iterations) is due after `iteration` iterations."""
        if iteration == self.length(steps_per_epoch):
            return True
        period = steps_per_epoch if every is None else self.in_iterations(every, steps_per_epoch)
        return period > 0 and iteration % period == 0
