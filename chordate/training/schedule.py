"""Learning-rate schedules: the multiplier of the learning rate as a pure function of the iteration.

A schedule has no state, so a run that is resumed with more epochs follows the schedule of the new length. (torch's
schedulers save their length in their state, so the resumed run would follow the schedule of the old length.)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch.optim import Optimizer

from chordate.arguments import Ascending, NonNegativeFloat, NonNegativeInt, PositiveFloat, validate_settings
from chordate.composition import as_section, located
from chordate.errors import ConfigError, unknown
from chordate.registry import SCHEDULES


@dataclass(frozen=True)
class Span:
    """Lengths in iterations.

    Attributes:
        warmup: length of the warm-up.
        total: length of the training, including the warm-up.
        unit: iterations per epoch if the milestones are in epochs; 1 if they are in iterations.
    """

    warmup: int
    total: int
    unit: int


@SCHEDULES.register_module("constant")
@dataclass(frozen=True)
class Constant:
    """`type="constant"`: no decay after the warm-up. All types have the warm-up (Goyal et al. 2017, section 2.2).

    Attributes:
        warmup_iters, warmup_epochs: length of the warm-up; at most one of them may be set.
        warmup_factor: multiplier of the learning rate at the start of the warm-up.
        warmup: "linear" increases the multiplier to 1; "constant" keeps `warmup_factor` until the end of the warm-up.
    """

    warmup_iters: NonNegativeInt = 0
    warmup_epochs: NonNegativeFloat = 0
    warmup_factor: NonNegativeFloat = 0.001
    warmup: Literal["linear", "constant"] = "linear"

    def __post_init__(self) -> None:
        if self.warmup_iters and self.warmup_epochs:
            raise ConfigError("set either warmup_iters or warmup_epochs, and the other to 0")

    def decay(self, iteration: int, span: Span) -> float:
        """The multiplier of the learning rate in `iteration`, without the warm-up."""
        return 1.0

    def unreached(self, length: int) -> list[float]:
        """The milestones that a training run of `length` (in the unit of the milestones) does not reach."""
        return []


@SCHEDULES.register_module("step")
@dataclass(frozen=True)
class Step(Constant):
    """`type="step"`: multiplies the learning rate by `gamma` at each milestone.

    Milestones are in epochs if the length of the training is set in epochs, else in iterations.
    """

    milestones: Annotated[Sequence[PositiveFloat], Ascending] = ()
    gamma: NonNegativeFloat = 0.1

    def decay(self, iteration: int, span: Span) -> float:
        return self.gamma ** bisect_right([round(milestone * span.unit) for milestone in self.milestones], iteration)

    def unreached(self, length: int) -> list[float]:
        return [milestone for milestone in self.milestones if milestone >= length]


@SCHEDULES.register_module("cosine")
@dataclass(frozen=True)
class Cosine(Constant):
    """`type="cosine"`: half a cosine wave, from 1 after the warm-up to `min_factor` at the end (SGDR, Loshchilov &
    Hutter 2017, equation 5, without restarts)."""

    min_factor: NonNegativeFloat = 0.0

    def decay(self, iteration: int, span: Span) -> float:
        progress = (iteration - span.warmup) / max(1, span.total - span.warmup)
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return self.min_factor + (1 - self.min_factor) * wave


@SCHEDULES.register_module("poly")
@dataclass(frozen=True)
class Poly(Constant):
    """`type="poly"`: `(1 - progress) ** power` (Chen et al. 2018, DeepLab, section 4.1), scaled to the range from 1
    after the warm-up to `min_factor` at the end, as in mmengine's PolyLR."""

    power: PositiveFloat = 0.9
    min_factor: NonNegativeFloat = 0.0

    def decay(self, iteration: int, span: Span) -> float:
        progress = (iteration - span.warmup) / max(1, span.total - span.warmup)
        return self.min_factor + (1 - self.min_factor) * (1 - min(1.0, max(0.0, progress))) ** self.power


@dataclass(frozen=True)
class Schedule:
    """The learning-rate schedule of a training run."""

    settings: Constant
    span: Span

    def factor(self, iteration: int) -> float:
        """The multiplier of the learning rate in `iteration` (counted from 0), including the warm-up."""
        settings, warmup = self.settings, 1.0
        if iteration < self.span.warmup:
            done = iteration / self.span.warmup if settings.warmup == "linear" else 0.0
            warmup = settings.warmup_factor + (1 - settings.warmup_factor) * done
        return warmup * settings.decay(iteration, self.span)

    def apply(self, optimizer: Optimizer, iteration: int) -> None:
        """Set the learning rate of every parameter group for `iteration`: `initial_lr` times the multiplier."""
        factor = self.factor(iteration)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


def schedule_settings(config: Mapping[str, Any] | None) -> Constant:
    """The validated settings of a config's `schedule` section: `type` and the settings of the type; None is "constant".

    Raises:
        ConfigError: a type or setting is unknown (the message suggests similar names), or a value is invalid.
    """
    section = as_section(config, "schedule")
    kind = section.pop("type", "constant")
    if not isinstance(kind, str) or kind not in SCHEDULES.names():
        raise located(ConfigError(unknown("schedule", str(kind), SCHEDULES.names())), section, ["type"])
    return validate_settings(SCHEDULES.get(kind), section, "schedule")


def build_schedule(
    config: Mapping[str, Any] | None, total: int, steps_per_unit: int, steps_per_epoch: int | None = None
) -> Schedule:
    """Build the learning-rate schedule.

    Args:
        config: the section `schedule` of a config, see `schedule_settings`.
        total: number of iterations of the whole training.
        steps_per_unit: iterations per epoch if the milestones are in epochs; 1 if they are in iterations.
        steps_per_epoch: iterations per epoch, for `warmup_epochs`; by default `steps_per_unit`.
    """
    settings = schedule_settings(config)
    warmup = settings.warmup_iters or round(settings.warmup_epochs * (steps_per_epoch or steps_per_unit))
    return Schedule(settings, Span(warmup, total, steps_per_unit))
