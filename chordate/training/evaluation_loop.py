"""The evaluation loop: runs a model over a loader and updates a metric, in training and in `chordate test`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from chordate import launch
from chordate.data.loader import Loader
from chordate.data.seeding import preserved_rng
from chordate.distributed import world_size
from chordate.errors import NothingToEvaluate, TrainingError
from chordate.log_once import no_warnings
from chordate.model_contracts import Metric, Model, compute_numbers
from chordate.progress import ProgressBar
from chordate.structures import Batch
from chordate.training.precision import autocast, to_channels_last, to_channels_last_weights


def evaluate(
    model: Model,
    loader: Any,
    metric: Metric,
    device: torch.device | None = None,
    *,
    amp: str | None = None,
    channels_last: bool = False,
    progress: ProgressBar | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Evaluate a model on a dataset. Returns the metrics, which are equal on all ranks.

    The training mode of every module and the states of the random number generators are restored afterwards.

    Args:
        model: the model, which is moved to the device.
        loader: yields batches of the images that this rank evaluates.
        metric: collects the predictions and gathers them over the ranks.
        device: None for this process's GPU, or the CPU if there is no GPU.
        amp: mixed precision, "bf16" or "fp16" (GPU only); None for full precision.
        channels_last: whether to use the NHWC memory layout for images and weights.
        progress: the ProgressBar to draw in; None creates a new one on the terminal.
        interrupted: called after every batch; if it returns True, the evaluation ends and returns an empty dict.

    Raises:
        ConfigError: the metric does not return a dict of numbers.
        NothingToEvaluate: the images have no ground truth from which the metric can be computed.
        TrainingError: a detection has a non-finite value.
    """
    device = device or launch.device()
    model.to(device)
    if channels_last:
        to_channels_last_weights(model)
    with evaluation_mode(model), preserved_rng():
        for batch in (progress or ProgressBar()).track(loader, "evaluating", len(loader)):
            with autocast(device, amp):
                predictions = model.predict(to_device(batch, device, channels_last))
            metric.update(predictions, batch)
            if interrupted():
                return {}
        if world_size() > 1 and isinstance(loader, Loader):
            loader.report_problems()
        return compute_numbers(metric)


def trial_evaluation(model: Model, loader: Loader, metric: Metric, device: torch.device) -> dict[str, float]:
    """Evaluate one sample, so that mismatches between data, predictions and metric are reported before training.

    Returns the metrics, or an empty dict if predictions are non-finite (the model is untrained) or the sample has no
    ground truth (other samples may have some). Ignores warnings, for example that there are no detections.
    """
    with no_warnings(), suppress(TrainingError, NothingToEvaluate):
        metrics = evaluate(model, [loader.first_batch()], metric, device)
        metric.table()
        return metrics
    return {}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context manager for evaluation: eval mode without gradients; restores the mode of every module at exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """Move a batch to `device`, asynchronously from pinned memory; convert images to NHWC if `channels_last`."""
    batch = batch.to(device)
    if channels_last:
        batch.images = to_channels_last(batch.images)
    return batch
