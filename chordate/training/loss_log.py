"""Keeps the losses of recent steps on the device, then copies them to the host, averages over ranks, and checks them.

Reading a loss synchronizes with the GPU, so on a GPU losses are read only if a log line, a checkpoint or an evaluation
is due. Until then the losses of every step are kept with the ids of its images, so that an error can name the first
non-finite loss and its images. Since every checkpoint is written after reading the losses, weights updated with a
non-finite loss are never saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from chordate.distributed import all_gather_object, is_active, rank, world_size
from chordate.errors import TrainingError


class StepValues(NamedTuple):
    """The losses of one batch, on the device.

    Attributes:
        iteration: iteration of the batch, counted from 1.
        image_ids: `image_id` of each image in the batch.
        names: names of the losses.
        values: `[len(names)]`, the losses.
        guarded: whether a non-finite value is an error.
    """

    iteration: int
    image_ids: list[int]
    names: list[str]
    values: Tensor
    guarded: bool


class BadValue(NamedTuple):
    """A non-finite loss, and where it occurred. Sorts by time: by `iteration`, then by `position`, the index among the
    values recorded since the last read."""

    iteration: int
    position: int
    rank: int
    name: str
    value: float
    image_ids: list[int | str]

    def error(self) -> TrainingError:
        where = f" on rank {self.rank}" if world_size() > 1 else ""
        return TrainingError(
            f"{self.name} is {self.value} in iteration {self.iteration}{where}, images {self.image_ids}: training "
            f"stops and nothing is saved; check these images, lower optimizer.lr, or set train.clip_norm"
        )


class LossLog:
    """Collects losses without synchronization, and stops the run at the first non-finite loss.

    Args:
        id_in_file: converts an image id for messages, see `Dataset.id_in_file`.
    """

    def __init__(self, id_in_file: Callable[[int], int | str] = lambda image_id: image_id) -> None:
        self._id_in_file = id_in_file
        self._unread: list[StepValues] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def record(
        self, iteration: int, values: Mapping[str, Tensor], image_ids: Sequence[int] = (), guarded: bool = True
    ) -> None:
        """Keep the losses of one batch (scalars on the device), the batch's `iteration` (counted from 1) and image ids.
        If `guarded`, a non-finite value is an error."""
        flat = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        self._unread.append(StepValues(iteration, list(image_ids), list(values), flat, guarded))

    def read(self, flag: bool = False) -> bool:
        """Copy the values to the host, average them over the ranks, and check them. All ranks must call this
        method after the same iteration; it synchronizes with the device once.

        Args:
            flag: a request of this rank, such as to stop. It is all-reduced together with the losses, so that the ranks
                agree without another synchronization.

        Returns:
            Whether any rank set `flag`; False if there are no values to read.

        Raises:
            TrainingError: a guarded value is non-finite on some rank; the message is about the earliest such value on
                all ranks.
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
        """Context manager: if an exception is raised while a recorded loss is non-finite, raise a TrainingError about
        that loss instead. Checks the losses of this rank only, since the other ranks may have stopped."""
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
        sources = [(step, name) for step in self._unread for name in step.names]
        for position, ((step, name), value) in enumerate(zip(sources, values)):
            if step.guarded and not math.isfinite(value):
                ids = [self._id_in_file(image_id) for image_id in step.image_ids]
                return BadValue(step.iteration, position, rank(), name, value, ids)
        return None

    def means(self) -> dict[str, float]:
        """The mean of each value over the steps that were read since the last call of `means`."""
        means = {name: self._sums[name] / self._counts[name] for name in self._sums}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts of the values that were read since the last call of `means`."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums and counts that `state_dict` returned."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
