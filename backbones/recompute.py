"""Activation checkpointing that updates BatchNorm's running statistics only once per step."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, x: Tensor) -> Any:
    """Compute `block(x)`, and keep only `x` for the backward pass, which computes the block again.

    Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost.
    """
    if torch.compiler.is_compiling():  # compiled code updates the statistics once anyway
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _preserved_buffers(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _preserved_buffers(block: nn.Module) -> Iterator[None]:
    """Context manager for recomputation: the block updates copies of its buffers, since BatchNorm's running statistics
    already include the batch."""
    kept = [(m, name, buffer) for m in block.modules() for name, buffer in m.named_buffers(recurse=False)]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
