"""The losses of recent steps: kept on the device, read in one copy, averaged over ranks, and checked.

Reading a loss makes the host wait for the GPU, so nothing is read between two lines of the log. Until then the values
of every step are kept with the ids of its images, so that the first loss that was not finite can still be named
exactly. Checkpoints and evaluations read first: what is saved is always from before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from chordate.distributed import all_gather_object, is_active, rank, world_size
from chordate.errors import TrainingError


class StepValues(NamedTuple):
    """Values of one batch, still on the device: `values` has one per name."""

    iteration: int
    image_ids: list[int]
    names: list[str]
    values: Tensor
    guarded: bool


class BadValue(NamedTuple):
    """A loss that is not finite, and its source. The earliest is the smallest; `place` counts since the last read."""

    iteration: int
    place: int
    rank: int
    name: str
    value: float
    image_ids: list[int]

    def error(self) -> TrainingError:
        where = f" on rank {self.rank}" if world_size() > 1 else ""
        return TrainingError(
            f"{self.name} is {self.value} in iteration {self.iteration}{where}, images {self.image_ids}: training "
            f"stops and nothing is saved from it; look at these images, lower optimizer.lr, or set train.clip_norm"
        )


class LossLog:
    """Collects losses without waiting for the device, and stops the run at the first that is not finite."""

    def __init__(self) -> None:
        self._unread: list[StepValues] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def record(
        self, iteration: int, values: Mapping[str, Tensor], image_ids: Sequence[int] = (), guarded: bool = True
    ) -> None:
        """Keep the values of one batch: scalars on the device, the batch's `iteration` (1 is the first) and images.
        If `guarded`, a value that is not finite is an error."""
        flat = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        self._unread.append(StepValues(iteration, list(image_ids), list(values), flat, guarded))

    def read(self, flag: bool = False) -> bool:
        """Wait for the device once, average over the ranks, and check. All ranks call it after the same iteration.

        Returns:
            Whether any rank's `flag` was set, so that ranks agree on something without another wait; False if there
            was nothing to read.

        Raises:
            TrainingError: a guarded value is not finite on some rank; all ranks name the earliest.
        """
        if not self._unread:
            return False
        own = torch.cat([step.values for step in self._unread])
        shared = torch.cat([own / world_size(), own.new_tensor([float(flag)])])
        if is_active():
            dist.all_reduce(shared)
        *values, flags = shared.tolist()
        if not all(map(math.isfinite, values)):
            bad = [value for value in all_gather_object(self._first_bad(own.tolist())) if value is not None]
            if bad:
                raise min(bad).error()
        for name, value in zip((name for step in self._unread for name in step.names), values):
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._unread.clear()
        return flags > 0

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Within it, an error that follows from a NaN is raised as a TrainingError about the NaN. Looks at this rank's
        values only, since the others may have stopped."""
        try:
            yield
        except TrainingError:
            raise
        except Exception as error:
            bad = self._first_bad([value for step in self._unread for value in step.values.tolist()])
            if bad is not None:
                raise bad.error() from error
            raise

    def _first_bad(self, values: list[float]) -> BadValue | None:
        places = [(step, name) for step in self._unread for name in step.names]
        for place, ((step, name), value) in enumerate(zip(places, values)):
            if step.guarded and not math.isfinite(value):
                return BadValue(step.iteration, place, rank(), name, value, step.image_ids)
        return None

    def means(self) -> dict[str, float]:
        """The mean of each value over what was read since the last call."""
        means = {name: self._sums[name] / self._counts[name] for name in self._sums}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """What was read and is not in any mean yet."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s result."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
