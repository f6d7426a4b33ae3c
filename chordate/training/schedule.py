"""Learning-rate schedules: the factor on the learning rate as a pure function of the iteration.

Nothing is remembered between iterations, so a resumed run that trains longer than first planned simply follows
the longer schedule. (mmengine's schedulers store where they end; raising the epochs on a resume freezes them.)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from chordate import checks
from chordate.errors import ConfigError, unknown

Decay = Callable[[int], float]


@dataclass(frozen=True)
class StepDecay:
    """The factor falls to `gamma` of itself at every milestone (iterations, ascending)."""

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
        decay: factor by iteration after, and together with, the warm-up.
        warmup_iters: iterations until the factor is whole.
        warmup_factor: what the warm-up starts from.
        warmup: "linear", or "constant": `warmup_factor` to the end of the warm-up, then the whole rate at once.
    """

    decay: Decay
    warmup_iters: int = 0
    warmup_factor: float = 0.001
    warmup: str = "linear"

    def factor(self, iteration: int) -> float:
        """What the learning rate is multiplied by in `iteration` (0 is the first)."""
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


WARMUPS = ("linear", "constant")
WARMUP_KEYS = {"warmup_iters": 0, "warmup_epochs": 0, "warmup_factor": 0.001, "warmup": "linear"}
KEYS: dict[str, dict[str, Any]] = {
    "step": {"milestones": (), "gamma": 0.1},
    "cosine": {"min_factor": 0.0},
    "constant": {},
}


def build_schedule(
    config: Mapping[str, Any] | None, total: int, steps_per_unit: int, steps_per_epoch: int | None = None
) -> Schedule:
    """The schedule that a config's `schedule` section describes.

    Args:
        config: `type` "step" (`milestones`, `gamma`), "cosine" (`min_factor`) or "constant", and `warmup_iters` or
            `warmup_epochs`, `warmup_factor`, `warmup`. None is constant.
        total: iterations of the whole training.
        steps_per_unit: iterations in the unit that milestones count in: those of an epoch, or 1.
        steps_per_epoch: iterations of an epoch; None is `steps_per_unit`.

    Raises:
        ConfigError: an unknown type or key (with near names), or milestones that do not ascend.
    """
    given = {"type": "constant", **checks.section("schedule", config)}
    kind = given.pop("type")
    if not isinstance(kind, str) or kind not in KEYS:
        raise ConfigError(unknown("schedule", str(kind), KEYS))
    known: dict[str, Any] = {**KEYS[kind], **WARMUP_KEYS}
    for key in given:
        if key not in known:
            raise ConfigError(unknown(f'key of a "{kind}" schedule', key, known))
    values = {**known, **given}
    checks.number("schedule.warmup_iters", values["warmup_iters"], least=0, whole=True)
    checks.number("schedule.warmup_epochs", values["warmup_epochs"], least=0)
    if values["warmup_iters"] and values["warmup_epochs"]:
        raise ConfigError("schedule: set either warmup_iters or warmup_epochs, and the other to 0")
    if values["warmup"] not in WARMUPS:
        raise ConfigError(unknown("schedule.warmup", str(values["warmup"]), WARMUPS))
    warmup = values["warmup_iters"] or round(values["warmup_epochs"] * (steps_per_epoch or steps_per_unit))
    for key in ("warmup_factor", "gamma", "min_factor"):
        if key in values:
            checks.number(f"schedule.{key}", values[key], least=0)
    decay: Decay = StepDecay((), 1.0)
    if kind == "step":
        milestones = checks.listed("schedule.milestones", values["milestones"])
        for milestone in milestones:
            checks.number("schedule.milestones: each", milestone)
        if any(later <= earlier for earlier, later in zip([0, *milestones], milestones)):
            raise ConfigError(f"schedule.milestones ascend and start above 0, not {milestones}")
        decay = StepDecay([round(milestone * steps_per_unit) for milestone in milestones], values["gamma"])
    elif kind == "cosine":
        decay = CosineDecay(warmup, total, values["min_factor"])
    return Schedule(decay, warmup, values["warmup_factor"], values["warmup"])
