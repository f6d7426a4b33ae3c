"""Prepares a model for training: device, memory layout, synchronized BatchNorm, compilation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from chordate.errors import ConfigError
from chordate.training.precision import to_channels_last_weights, use_channels_last
from chordate.training.settings import TrainSettings

COMPILED_GRAPHS = 64  # per function, before torch runs it uncompiled; its default is 8


def prepare_model(model: nn.Module, settings: TrainSettings, device: torch.device, world_size: int) -> nn.Module:
    """The model itself on the device, with the memory layout and the BatchNorm of the settings.

    Raises:
        ConfigError: synchronized BatchNorm over several processes on the CPU.
    """
    if settings.sync_bn and world_size > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    synchronized = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if synchronized and world_size > 1 and device.type == "cpu":
        raise ConfigError("SyncBN over several processes needs GPUs; set train.sync_bn=False and norm BN or GN")
    model = model.to(device)
    if use_channels_last(settings.channels_last, device):
        to_channels_last_weights(model)
    return model


def compile_model(model: nn.Module, options: bool | Mapping[str, Any]) -> nn.Module:
    """The model compiled (not if False), with room for a graph per size of images and number of boxes in a batch.

    Raises:
        ConfigError: `options` are not torch.compile's.
    """
    if options is False:
        return model
    import torch._dynamo  # takes seconds, and few runs need it

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, COMPILED_GRAPHS)
    try:
        return cast(nn.Module, torch.compile(model, **({} if options is True else options)))
    except (TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"train.compile: {' '.join(str(error).split())}") from error
