"""Collectives over the ranks of a run, of Python objects and of buffers; without a process group, one rank."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


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


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Give a model the same buffers on every rank: the mean of floating-point ones, of others the first rank's.

    BatchNorm's running statistics are linear in the batches, so their mean over the ranks is what each rank would have
    after seeing all ranks' batch statistics. Buffers that are equal already stay as they are, bit by bit.
    """
    if world_size() == 1:
        return
    groups: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        groups.setdefault(buffer.dtype, []).append(buffer)
    for dtype, buffers in groups.items():
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        first = flat.clone()
        dist.broadcast(first, 0)
        if dtype.is_floating_point:
            difference = flat - first  # not the plain sum, whose rounding would move equal buffers
            dist.all_reduce(difference)
            first += difference / world_size()
        for buffer, value in zip(buffers, first.split([buffer.numel() for buffer in buffers])):
            buffer.copy_(value.view_as(buffer))
