"""Prepares a model for training: device, memory layout, SyncBN, compilation, DistributedDataParallel."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from chordate.data.seeding import preserved_rng
from chordate.distributed import is_active, world_size
from chordate.errors import ConfigError
from chordate.text import one_line
from chordate.training.precision import to_channels_last_weights, use_channels_last
from chordate.training.settings import TrainSettings

COMPILED_GRAPHS = 64  # limit per function; beyond it, torch runs the function uncompiled (torch's default is 8)


def prepare_model(model: nn.Module, settings: TrainSettings, device: torch.device) -> nn.Module:
    """Move the model to the device, and convert its memory layout and BatchNorm layers as the settings require.

    Raises:
        ConfigError: the model or `settings.sync_bn` requires SyncBN over several processes on the CPU.
    """
    if settings.sync_bn and world_size() > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    synchronized = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if synchronized and world_size() > 1 and device.type == "cpu":
        raise ConfigError(
            'SyncBN over several processes needs GPUs; set train.sync_bn=False, and norm="BN" or norm="GN" instead of '
            '"SyncBN"'
        )
    model = model.to(device)
    if use_channels_last(settings.channels_last, device):
        to_channels_last_weights(model)
    return model


def compile_model(model: nn.Module, options: bool | Mapping[str, Any]) -> nn.Module:
    """Compile the model (unless `options` is False). Increases torch's limit to 64 graphs per function, since torch
    compiles one graph per image size and number of boxes in a batch.

    Raises:
        ConfigError: torch.compile rejects `options`.
    """
    if options is False:
        return model
    import torch._dynamo  # imported lazily: the import takes seconds, and few runs need it

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, COMPILED_GRAPHS)
    try:
        return cast(nn.Module, torch.compile(model, **({} if options is True else options)))
    except (TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"train.compile: {one_line(error)}") from error


def wrap_ddp(model: nn.Module, device: torch.device, *, find_unused: bool = False) -> DistributedDataParallel:
    """Wrap the model to average gradients over the ranks. Buffers differ between ranks until `average_buffers`
    is called.

    With `find_unused`, every step searches for parameters without a gradient; otherwise all parameters need a gradient.
    """
    known = inspect.signature(DistributedDataParallel).parameters  # the argument's name depends on torch's version
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    buffers: dict[str, Any] = {name: False}
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=find_unused, **buffers)


def find_unused_parameters(model: nn.Module, loss: Callable[[], Tensor]) -> list[str]:
    """Names of the trainable parameters that get no gradient from `loss()` on any rank, for example in unused stages.

    All ranks must call this function. Runs one backward pass, then clears the gradients, and restores the buffers and
    the random number generators.
    """
    before = [buffer.clone() for buffer in model.buffers()]
    with preserved_rng():
        loss().backward()
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    reached = torch.tensor([int(parameter.grad is not None) for _, parameter in trainable])
    if is_active():
        reached = reached.to(trainable[0][1].device)  # NCCL reduces only tensors on the GPU
        dist.all_reduce(reached, op=dist.ReduceOp.MAX)
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before):
            buffer.copy_(value)
    return [name for (name, _), is_reached in zip(trainable, reached.tolist()) if not is_reached]
