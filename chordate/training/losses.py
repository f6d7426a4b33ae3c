"""The losses of recent iterations: kept on the device, read in one copy, averaged over ranks, and checked.

Reading a loss makes the host wait for the GPU, so nothing is read between two lines of the log. The values of
every iteration are kept until then, with the ids of its images, so that the first loss that was not finite can
still be named exactly. Checkpoints and evaluations read first: what is saved is always from before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from torch import Tensor

from chordate.errors import TrainingError


@dataclass
class Record:
    """Values of one batch that are still on the device."""

    iteration: int
    image_ids: list[int]
    names: list[str]
    values: Tensor  # [len(names)]
    guarded: bool


def total_loss(losses: Any) -> Tensor:
    """The sum of a model's losses. A value without a gradient, such as a training error, is only logged.

    Raises:
        TrainingError: the model gave something else than scalars by name.
    """
    if not isinstance(losses, Mapping) or not losses:
        raise TrainingError(f"a model in training mode returns a dict of losses, not {type(losses).__name__}")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TrainingError(f'loss "{name}" is not a scalar tensor but {shape}; reduce it, for example by .mean()')
    learnt = [value for value in losses.values() if value.requires_grad] or losses.values()
    return torch.stack([value.float().reshape(()) for value in learnt]).sum()


@dataclass(order=True)
class BadValue:
    """A loss that is not finite, and where it came from."""

    iteration: int
    place: int  # among the values of that iteration
    rank: int
    name: str
    value: float
    image_ids: list[int]

    def error(self) -> TrainingError:
        where = f" on rank {self.rank}" if get_world_size() > 1 else ""
        return TrainingError(
            f"{self.name} is {self.value} in iteration {self.iteration}{where}, images {self.image_ids}: training "
            f"stops and nothing is saved from it; look at these images, lower optimizer.lr, or set train.clip_norm"
        )


class LossLog:
    """Collects losses without waiting for the device, and stops the run at the first that is not finite."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def record(
        self, iteration: int, values: Mapping[str, Tensor], image_ids: Sequence[int] = (), guarded: bool = True
    ) -> None:
        """Keep the values of one batch.

        Args:
            iteration: the iteration it belongs to, 1 is the first.
            values: scalars on the device.
            image_ids: of the batch.
            guarded: a value that is not finite is an error.
        """
        flat = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        self._records.append(Record(iteration, list(image_ids), list(values), flat, guarded))

    def read(self, flag: bool = False) -> bool:
        """Wait for the device once, average over the ranks, and check. All ranks call it after the same iteration.

        Args:
            flag: travels along, so that ranks agree on something without another wait.

        Returns:
            Whether any rank's flag was set (False where there was nothing to read).

        Raises:
            TrainingError: a guarded value is not finite on some rank; all ranks name the earliest.
        """
        if not self._records:
            return False
        world_size = get_world_size()
        own = torch.cat([record.values for record in self._records])
        shared = torch.cat([own / world_size, own.new_tensor([float(flag)])])
        all_reduce(shared, op="sum")
        *values, flags = shared.tolist()
        if not all(math.isfinite(value) for value in values):
            found = [bad for bad in all_gather_object(self._first_bad(own.tolist())) if bad is not None]
            if found:
                raise min(found).error()
        names = (name for record in self._records for name in record.names)
        for name, value in zip(names, values):
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._records.clear()
        return flags > 0

    def check(self) -> None:
        """Look at this rank's values only, without the other ranks: for when something else has already gone wrong.

        Raises:
            TrainingError: a guarded value is not finite.
        """
        bad = self._first_bad([value for record in self._records for value in record.values.tolist()])
        if bad is not None:
            raise bad.error()

    def _first_bad(self, values: list[float]) -> BadValue | None:
        place = 0
        for record in self._records:
            for name in record.names:
                if record.guarded and not math.isfinite(values[place]):
                    return BadValue(record.iteration, place, get_rank(), name, values[place], record.image_ids)
                place += 1
        return None

    def means(self) -> dict[str, float]:
        """The mean of each value over what was read since the last call."""
        means = {name: self._sums[name] / self._counts[name] for name in self._sums}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """What was read and not yet asked for."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s result."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
