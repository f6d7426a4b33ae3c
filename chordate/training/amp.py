"""Mixed precision on the CPU and the GPU: autocast, loss scaling, and the optimiser's step around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from chordate.errors import ConfigError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str | None) -> AbstractContextManager[Any]:
    """The context in which a model runs in mixed precision; no change where `amp` is None.

    Raises:
        ConfigError: fp16 on the CPU, which has no fast kernels for it.
    """
    if amp is None:
        return nullcontext()
    if amp == "fp16" and device.type == "cpu":
        raise ConfigError('fp16 mixed precision needs a GPU; on the CPU use amp="bf16"')
    return torch.autocast(device.type, dtype=DTYPES[amp])


class StepWrapper(OptimWrapper):
    """An optimiser with autocast, loss scaling for fp16, and clipping that does not wait for the device.

    mmengine's own wrapper for mixed precision asserts a GPU, and reads the norm of the gradients back in every
    iteration; the loop counts accumulated batches, so nothing here has to.

    Args:
        optimizer: what takes the step.
        device: where the model lives.
        amp: None, "bf16" or "fp16".
        clip_norm: largest global norm of the gradients, or None.
    """

    scaler: torch.amp.GradScaler

    def __init__(self, optimizer: Optimizer, device: torch.device, amp: str | None, clip_norm: float | None):
        super().__init__(optimizer)
        self.device, self.amp, self.clip_norm = device, amp, clip_norm
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        autocast(device, amp)  # fails now rather than in the first iteration

    @contextmanager
    def optim_context(self, model: nn.Module, last: bool = True) -> Iterator[None]:
        """Forward and backward of one batch; ranks share gradients only in the `last` batch of an iteration."""
        with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add the gradients of `loss`."""
        self.scaler.scale(loss).backward(**kwargs)

    def step(self, **kwargs: Any) -> Tensor | None:
        """Clip, step, and forget the gradients.

        Returns:
            The norm of the gradients before clipping, a scalar on the device; None without clipping.
        """
        norm = None
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm
