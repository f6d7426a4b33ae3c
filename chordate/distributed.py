"""Collectives of plain Python objects over the ranks of a run; without a process group, one rank on its own."""

from typing import Any

import torch.distributed as dist


def is_active() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if is_active() else 1


def is_main_process() -> bool:
    """Whether this is rank 0, which writes files and talks to the terminal."""
    return rank() == 0


def all_gather_object(value: Any) -> list[Any]:
    """The `value` of every rank, in the order of the ranks, the same list on each. Pickled; under NCCL it passes
    through the current GPU."""
    if not is_active():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any, source: int = 0) -> Any:
    """The `value` of rank `source`, on every rank; what the others pass is dropped."""
    if not is_active():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=source)
    return values[0]
