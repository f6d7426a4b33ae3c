"""Evaluation: a model over a loader into a metric; used after every epoch and by `chordate test`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from chordate.structures import Batch
from chordate.training.amp import autocast
from chordate.training.launch import device as default_device
from chordate.training.progress import ProgressBar
from chordate.training.rng import preserved_rng


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Any,
    metric: Any,
    *,
    device: torch.device | None = None,
    amp: str | None = None,
    channels_last: bool = False,
    progress: ProgressBar | None = None,
) -> dict[str, float]:
    """Run a model over a data set and return the metric's numbers, the same on every rank.

    The modes of the model's parts and the random number generators are afterwards as they were.

    Args:
        model: moved to the device; in eval mode it gives a list of Detections for a Batch.
        loader: gives this rank's share of the images.
        metric: has `process(batch, detections)` and `evaluate()`, which gathers over the ranks.
        device: None is this process's GPU, or the CPU.
        amp: None, "bf16" or "fp16".
        channels_last: lay images and weights out as NHWC.
        progress: where to draw a bar; None makes one on a terminal.

    Raises:
        ConfigError: fp16 on the CPU.
    """
    device = device or default_device()
    model.to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    modes = [(module, module.training) for module in model.modules()]  # parts of a training model may be frozen
    model.eval()
    try:
        with preserved_rng():
            for batch in (progress or ProgressBar()).track(loader, "evaluating", len(loader)):
                with autocast(device, amp):
                    detections = model(to_device(batch, device, channels_last))
                metric.process(batch, detections)
            return metric.evaluate()
    finally:
        for module, mode in modes:
            module.training = mode


def stop_workers(loader: Any) -> None:
    """End a loader's persistent workers now; it starts new ones when it is iterated again.

    Left to Python's garbage collector (a Runner and its loops refer to each other) or to the end of the process, each
    of them is first waited for in vain for five seconds.
    """
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """The batch on `device`, its images in NHWC order in memory if wanted. Does not wait for a pinned batch."""
    batch = batch.to(device)
    if channels_last:
        batch.images = batch.images.contiguous(memory_format=torch.channels_last)
    return batch
