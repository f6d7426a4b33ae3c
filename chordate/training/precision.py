"""Numeric precision and memory layout: autocast, loss scaling, channels-last."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

from chordate.errors import ConfigError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str | None) -> AbstractContextManager[Any]:
    """Context manager for mixed precision `amp`; for None, it keeps full precision.

    Raises:
        ConfigError: `amp` is "fp16" on the CPU, which has no fast kernels for fp16.
    """
    if amp == "fp16" and device.type == "cpu":
        raise ConfigError('train.amp: fp16 mixed precision needs a GPU; on the CPU use amp="bf16"')
    return nullcontext() if amp is None else torch.autocast(device.type, dtype=DTYPES[amp])


def gradient_scaler(device: torch.device, amp: str | None) -> torch.amp.GradScaler:
    """The gradient scaler for fp16 (Micikevicius et al. 2018, section 3.2); disabled for other precisions."""
    with autocast(device, amp):  # raises an error for an unsupported `amp` now, not in the first step
        return torch.amp.GradScaler(device.type, enabled=amp == "fp16")


def use_channels_last(setting: bool | Literal["auto"], device: torch.device) -> bool:
    """Whether to use the NHWC memory layout for images and weights; "auto" chooses the faster layout for training.

    On CPUs, NHWC is faster with AVX-512. Without AVX-512, the weight gradient of a 3 × 3 convolution on large feature
    maps (256 channels, 120 × 160) takes three times as long as in NCHW, which outweighs the gain in other layers. On
    GPUs, PyTorch recommends NHWC.
    """
    if isinstance(setting, bool):
        return setting
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def to_channels_last(images: Tensor) -> Tensor:
    """Convert images `[N, C, H, W]` to NHWC memory layout; inputs that are not 4-dimensional (clips) are unchanged."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def to_channels_last_weights(model: nn.Module) -> None:
    """Convert 4-dimensional weights to NHWC memory layout, in place. (`Module.to` fails on 5-dimensional weights.)

    Convolutions for which `is_unsafe_in_nhwc` is true keep NCHW weights, and convert their input to NCHW.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = to_channels_last(tensor.data)
    for module in filter(is_unsafe_in_nhwc, model.modules()):
        module.weight.data = _in_nchw(module.weight.data)
        if _to_nchw not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_to_nchw)


def is_unsafe_in_nhwc(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a convolution whose weight gradient may corrupt memory in NHWC layout on the CPU.

    oneDNN's `jit_1x1` kernels write out of bounds in strided 1 × 1 convolutions with fewer input channels than the
    kernels' block (16 with AVX-512, 8 with AVX2; see docs/upstream/onednn_1x1.md).
    """
    if not isinstance(module, nn.Conv2d):
        return False
    return module.kernel_size == (1, 1) and max(module.stride) > 1 and module.in_channels // module.groups < 16


def _to_nchw(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(map(_in_nchw, inputs))


def _in_nchw(tensor: Tensor) -> Tensor:
    # `contiguous()` would keep NHWC strides if they differ from NCHW only in dimensions of size 1.
    return tensor.clone(memory_format=torch.contiguous_format)
