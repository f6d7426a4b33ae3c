"""A model made ready for training: on its device, in its layout, compiled, sharing gradients with other ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from chordate.errors import ConfigError
from chordate.training.ranks import share_gradients
from chordate.training.settings import TrainSettings

GRAPHS = 64  # per function, before torch runs it uncompiled


def place(model: nn.Module, settings: TrainSettings, device: torch.device, *, ranks: int, trains: bool) -> nn.Module:
    """The model itself on the device, with the layout and the BatchNorm that the settings ask for.

    Raises:
        ConfigError: synchronised BatchNorm over processes on the CPU.
    """
    if settings.sync_bn and ranks > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    syncs = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if syncs and ranks > 1 and trains and device.type == "cpu":
        raise ConfigError("SyncBN over several processes needs GPUs; set train.sync_bn=False and norm BN or GN")
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if settings.lays_channels_last(device) else model


def wrap(model: nn.Module, settings: TrainSettings, device: torch.device, *, ranks: int) -> nn.Module:
    """What training calls in the model's place: compiled and sharing gradients, as far as wanted."""
    if settings.compile:
        model = compiled(model, settings.compile if isinstance(settings.compile, Mapping) else {})
    return share_gradients(model, device) if ranks > 1 else model


def compiled(model: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """The model compiled, with room for one graph for each size of images and number of boxes that batches come in
    (torch gives up at 8 by default, and runs what it gave up on uncompiled).

    Raises:
        ConfigError: `options` are not torch.compile's.
    """
    import torch._dynamo  # takes seconds, and few runs need it

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, GRAPHS)
    try:
        return cast(nn.Module, torch.compile(model, **options))
    except (TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"train.compile: {' '.join(str(error).split())}") from error
