"""Learning-rate schedules: the factor on the learning rate as a pure function of the iteration.

Nothing is remembered between iterations, so a resumed run that trains longer than first planned simply follows the
longer schedule. (torch's schedulers store where they end; more epochs on a resume leave them frozen.)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer

from chordate.arguments import NonNegativeFloat, NonNegativeInt, PositiveFloat, validate_settings
from chordate.composition import as_section, located
from chordate.errors import ConfigError, unknown
from chordate.registry import SCHEDULES


@dataclass(frozen=True)
class StepDecay:
    """The factor is multiplied by `gamma` at every milestone (iterations, ascending)."""

    milestones: Sequence[int]
    gamma: float

    def __call__(self, iteration: int) -> float:
        return self.gamma ** bisect_right(self.milestones, iteration)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from 1 at iteration `start` to `min_factor` at iteration `end` (SGDR, Loshchilov & Hutter
    2017, equation 5, without restarts)."""

    start: int
    end: int
    min_factor: float

    def __call__(self, iteration: int) -> float:
        progress = (iteration - self.start) / max(1, self.end - self.start)
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return self.min_factor + (1 - self.min_factor) * wave


@dataclass(frozen=True)
class Schedule:
    """Warm-up (Goyal et al. 2017, section 2.2) times a decay.

    Attributes:
        decay: factor by iteration, after and during the warm-up.
        warmup_iters: iterations of the warm-up.
        warmup_factor: the factor that the warm-up starts from.
        warmup: "linear", or "constant": `warmup_factor` to the end of the warm-up, then 1 at once.
    """

    decay: Callable[[int], float]
    warmup_iters: int = 0
    warmup_factor: float = 0.001
    warmup: str = "linear"

    def factor(self, iteration: int) -> float:
        """The factor on the learning rate in `iteration` (0 is the first)."""
        warmup = 1.0
        if iteration < self.warmup_iters:
            done = iteration / self.warmup_iters if self.warmup == "linear" else 0.0
            warmup = self.warmup_factor + (1 - self.warmup_factor) * done
        return warmup * self.decay(iteration)

    def apply(self, optimizer: Optimizer, iteration: int) -> None:
        """Set every group's learning rate for `iteration` from its `initial_lr`."""
        factor = self.factor(iteration)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


@SCHEDULES.register_module("constant")
@dataclass(frozen=True)
class ConstantSettings:
    """`type="constant"`, and the warm-up of all types: at most one of `warmup_iters` and `warmup_epochs` is set."""

    warmup_iters: NonNegativeInt = 0
    warmup_epochs: NonNegativeFloat = 0
    warmup_factor: NonNegativeFloat = 0.001
    warmup: Literal["linear", "constant"] = "linear"

    def __post_init__(self) -> None:
        if self.warmup_iters and self.warmup_epochs:
            raise ConfigError("set either warmup_iters or warmup_epochs, and the other to 0")

    def decay(self, warmup: int, total: int, steps_per_unit: int) -> Callable[[int], float]:
        """The decay after a warm-up of so many iterations of `total`."""
        return StepDecay((), 1.0)


@SCHEDULES.register_module("step")
@dataclass(frozen=True)
class StepSettings(ConstantSettings):
    """`type="step"`: milestones in the unit that training is measured in, epochs or iterations."""

    milestones: Sequence[PositiveFloat] = ()
    gamma: NonNegativeFloat = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(later <= earlier for earlier, later in zip(self.milestones, self.milestones[1:])):
            raise ConfigError(f"milestones must ascend, got {list(self.milestones)}")

    def decay(self, warmup: int, total: int, steps_per_unit: int) -> Callable[[int], float]:
        return StepDecay([round(milestone * steps_per_unit) for milestone in self.milestones], self.gamma)


@SCHEDULES.register_module("cosine")
@dataclass(frozen=True)
class CosineSettings(ConstantSettings):
    """`type="cosine"`."""

    min_factor: NonNegativeFloat = 0.0

    def decay(self, warmup: int, total: int, steps_per_unit: int) -> Callable[[int], float]:
        return CosineDecay(warmup, total, self.min_factor)


def build_schedule(
    config: Mapping[str, Any] | None, total: int, steps_per_unit: int, steps_per_epoch: int | None = None
) -> Schedule:
    """The schedule that a config's `schedule` section describes.

    Args:
        config: `type` "step", "cosine" or "constant", and the settings of that type above. None is constant.
        total: iterations of the whole training.
        steps_per_unit: iterations in the unit that milestones count in: those of an epoch, or 1.
        steps_per_epoch: iterations of an epoch; None is `steps_per_unit`.

    Raises:
        ConfigError: an unknown type or setting (with near names), a value out of its range, or milestones that do not
            ascend.
    """
    section = as_section(config, "schedule")
    kind = section.pop("type", "constant")
    if not isinstance(kind, str) or kind not in SCHEDULES.names():
        raise located(ConfigError(unknown("schedule", str(kind), SCHEDULES.names())), section, ["type"])
    settings = validate_settings(SCHEDULES.get(kind), section, "schedule")
    warmup = settings.warmup_iters or round(settings.warmup_epochs * (steps_per_epoch or steps_per_unit))
    decay = settings.decay(warmup, total, steps_per_unit)
    return Schedule(decay, warmup, settings.warmup_factor, settings.warmup)
