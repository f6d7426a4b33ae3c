"""Collective operations on Python objects and buffers, which also work without a process group (one rank)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_active() -> bool:
    """Whether a process group is initialized."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """Number of processes of the run; 1 without a process group."""
    return dist.get_world_size() if is_active() else 1


def is_main_process() -> bool:
    """Whether this is rank 0, which writes files and prints to the terminal."""
    return rank() == 0


def all_gather_object(value: Any) -> list[Any]:
    """The `value` of every rank, in the order of the ranks.

    Values are pickled; under NCCL they pass through the current GPU.
    """
    if not is_active():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any, source: int = 0) -> Any:
    """The `value` of rank `source`, on every rank; the values of other ranks are ignored."""
    if not is_active():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=source)
    return values[0]


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Make a model's buffers equal on all ranks: average floating-point buffers, copy others from rank 0.

    BatchNorm's running statistics are moving averages of batch statistics, so their mean over the ranks is the
    moving average of the batch statistics averaged over the ranks. Buffers that are already equal stay bit-identical.
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
            difference = flat - first  # averaging the values themselves would change equal buffers by rounding
            dist.all_reduce(difference)
            first += difference / world_size()
        for buffer, value in zip(buffers, first.split([buffer.numel() for buffer in buffers])):
            buffer.copy_(value.view_as(buffer))
