"""The `train` section of a config: what may be set, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch

from chordate import checks
from chordate.errors import ConfigError, unknown
from chordate.training.memory_format import trains_faster_channels_last

PRECISIONS = (None, "bf16", "fp16")
COUNTS = {
    "epochs": 1, "iterations": 1, "accumulate": 1, "save_every_iterations": 1, "keep": 1, "log_every": 1,
    "seed": 0, "eval_every": 0, "save_every": 0,
}  # whole numbers, and the least that each may be  # fmt: skip
SWITCHES = ("sync_bn", "tensorboard")


@dataclass(frozen=True)
class TrainSettings:
    """How a run trains. An iteration is one step of the optimiser, however many batches it accumulates.

    Attributes:
        epochs, iterations: how long to train; exactly one is set. `eval_every`, `save_every` and a
            schedule's milestones count in the same unit.
        seed: of initial weights, dropout, and (through the loader) order and augmentation.
        amp: mixed precision, "bf16" (CPU or GPU) or "fp16" (GPU); None is full precision.
        channels_last: lay images and weights out as NHWC; "auto" where training is faster so.
        compile: True, or a dict of torch.compile's arguments: compile the model for training.
        accumulate: batches whose gradients make one iteration.
        clip_norm: largest global norm of the gradients; None does not clip.
        ema: decay of the moving average of the weights, which is then what is evaluated; None keeps none.
        sync_bn: batch statistics over all ranks (GPU).
        eval_every, save_every: None is once an epoch, and the end in any case; 0 is never, save the end.
        save_every_iterations: save in mid-epoch too, every so many iterations.
        keep: how many of the newest checkpoints to keep (the best one apart); None keeps all.
        save_best: a metric; the checkpoint that scores highest in it is kept as `best_<metric>.pt`.
        log_every: iterations between two lines of the log.
        tensorboard: write TensorBoard event files as well.
    """

    epochs: int | None = None
    iterations: int | None = None
    seed: int = 0
    amp: str | None = None
    channels_last: bool | str = False
    compile: bool | Mapping[str, Any] = False
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    sync_bn: bool = False
    eval_every: int | None = None
    save_every: int | None = None
    save_every_iterations: int | None = None
    keep: int | None = 2
    save_best: str | None = None
    log_every: int = 50
    tensorboard: bool = True

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None) -> Self:
        """Check a config's `train` section.

        Raises:
            ConfigError: an unknown key (with near names), or a value that makes no sense.
        """
        section = checks.section("train", section)
        known = [field.name for field in fields(cls)]
        for key in section:
            if key not in known:
                raise ConfigError(unknown("key of `train`", key, known))
        settings = cls(**section)
        settings._check()
        return settings

    def _check(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise ConfigError("train: set either epochs or iterations, and the other to None (train.epochs=None)")
        for field in fields(self):
            value, least = getattr(self, field.name), COUNTS.get(field.name)
            if least is not None and not (value is None and "None" in str(field.type)):
                checks.number(f"train.{field.name}", value, least=least, whole=True)
        for name in SWITCHES:
            checks.switch(f"train.{name}", getattr(self, name))
        if not isinstance(self.compile, bool | Mapping):
            raise ConfigError(
                f"train.compile is True, False or a dict of torch.compile's options, not {self.compile!r}"
            )
        if not isinstance(self.save_best, str | None):
            raise ConfigError(f'train.save_best is the name of a metric, such as "bbox_AP", not {self.save_best!r}')
        if not isinstance(self.channels_last, bool) and self.channels_last != "auto":
            raise ConfigError(f'train.channels_last is True, False or "auto", not {self.channels_last!r}')
        if self.amp not in PRECISIONS:
            raise ConfigError(f'train.amp is None, "bf16" or "fp16", not {self.amp!r}')
        if self.clip_norm is not None:
            checks.number("train.clip_norm, where not None,", self.clip_norm, above=0)
        if self.ema is not None:
            checks.number("train.ema, where not None,", self.ema, above=0, below=1)

    def lays_channels_last(self, device: torch.device) -> bool:
        """Whether images and weights are laid out as NHWC there."""
        if isinstance(self.channels_last, bool):
            return self.channels_last
        return trains_faster_channels_last(device)

    @property
    def by_epoch(self) -> bool:
        """Whether training is measured in epochs (else in iterations)."""
        return self.epochs is not None

    def length(self, steps_per_epoch: int) -> int:
        """The whole training, in iterations."""
        return self.in_iterations(self.epochs if self.epochs is not None else self.iterations or 0, steps_per_epoch)

    def in_iterations(self, count: int, steps_per_epoch: int) -> int:
        """A count in the unit that training is measured in, as iterations."""
        return count * steps_per_epoch if self.by_epoch else count

    def is_due(self, every: int | None, iteration: int, steps_per_epoch: int) -> bool:
        """Whether something that happens `every` so many epochs or iterations happens after `iteration` of them."""
        if iteration == self.length(steps_per_epoch):
            return True
        period = steps_per_epoch if every is None else self.in_iterations(every, steps_per_epoch)
        return period > 0 and iteration % period == 0
