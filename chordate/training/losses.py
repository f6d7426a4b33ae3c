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


def total_loss(losses: Any) -> Tensor:
    """The sum of a model's losses. A value without a gradient, such as a training error, is only logged.

    Raises:
        TrainingError: the model gave something else than scalars by name.
    """
    if not isinstance(losses, Mapping) or not losses:
        raise TrainingError(f"Model.loss must return a dict of losses, not {type(losses).__name__}")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TrainingError(f'loss "{name}" is not a scalar tensor but {shape}; reduce it, for example by .mean()')
    summands = [value for value in losses.values() if value.requires_grad] or losses.values()
    return torch.stack([value.float().reshape(()) for value in summands]).sum()


class StepValues(NamedTuple):
    """Values of one batch, still on the device."""

    iteration: int
    image_ids: list[int]
    names: list[str]
    values: Tensor  # [len(names)]
    guarded: bool


class BadValue(NamedTuple):
    """A loss that is not finite, and where it came from. The earliest is the smallest."""

    iteration: int
    place: int  # among the values since the last reading
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
        if not all(math.isfinite(value) for value in values):
            bad = [value for value in all_gather_object(self._first_bad(own.tolist())) if value is not None]
            if bad:
                raise min(bad).error()
        names = (name for step in self._unread for name in step.names)
        for name, value in zip(names, values):
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._unread.clear()
        return flags > 0

    @contextmanager
    def explaining_errors(self) -> Iterator[None]:
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
        place = 0
        for step in self._unread:
            for name in step.names:
                if step.guarded and not math.isfinite(values[place]):
                    return BadValue(step.iteration, place, rank(), name, values[place], step.image_ids)
                place += 1
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
