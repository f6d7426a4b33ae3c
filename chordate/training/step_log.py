"""Logs a run: its setup at the start; losses, learning rate and speed every `train.log_every` iterations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from chordate.structures import Batch
from chordate.text import pluralize
from chordate.training.logging import logger

if TYPE_CHECKING:
    from chordate.training.trainer import Trainer


def log_setup(trainer: Trainer) -> None:
    """Log the machine, the learning rate and the parameter groups of a run."""
    settings, rates = trainer.settings, trainer.optimizer_settings
    processes, threads = pluralize(trainer.world_size, "process"), pluralize(torch.get_num_threads(), "thread")
    is_gpu = trainer.device.type == "cuda"
    device = torch.cuda.get_device_name(trainer.device) if is_gpu else f"CPU ({threads})"
    logger.info(f"torch {torch.__version__}, {device}, {processes}, seed {settings.seed}")
    logger.info(
        f"{type(trainer.optimizer).__name__}: learning rate {trainer.lr:g} (config: {rates.lr:g} for "
        f"{rates.base_batch_size or 'any number of'} images) for {trainer.batch_size} images per iteration "
        f"(batch_size {trainer.train_loader.images_per_batch} × {processes} × accumulate {settings.accumulate})"
    )
    for group in trainer.optimizer.param_groups:
        logger.info(f"  {pluralize(len(group['params']), 'parameter')} with {group['name']}")


class StepLog:
    """Records losses, learning rate and speed, and shows them in the progress bar or the console.

    Attributes:
        first_iteration: number of iterations done before this start of the run.
    """

    def __init__(self, trainer: Trainer):
        self._trainer, self.first_iteration = trainer, trainer.iteration
        self._started = time.monotonic()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure the speed from now on."""
        self._images, self._clock = 0, time.monotonic()

    def step(self, batches: Sequence[Batch], stopping: bool = False) -> None:
        """Called after every step; adds a record every `log_every` iterations, at the end, and if `trainer.stop` ends
        training (`stopping`).

        If a signal ends the run, no further record is added, since the resumed run continues the running means.
        """
        trainer, iteration, total = self._trainer, self._trainer.iteration, self._trainer.max_iterations
        self._images += sum(len(batch) for batch in batches) * trainer.world_size
        epoch = (iteration - 1) // trainer.steps_per_epoch + 1
        trainer.update_bar(description=f"epoch {epoch}/{trainer.max_epochs}")
        is_due = iteration % trainer.settings.log_every == 0 or iteration == total
        if is_due is stopping:  # not due, or already recorded by the call without `stopping`
            return
        now = time.monotonic()
        lr, speed = trainer.lr * trainer.schedule.factor(iteration - 1), round(self._images / (now - self._clock), 2)
        numbers = {"lr": lr, **trainer.losses.means(), **({"images_per_s": speed} if self._images else {})}
        if trainer.device.type == "cuda":
            numbers["memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        trainer.record("train", epoch, numbers)
        trainer.update_bar(0, status=f"loss {numbers['loss']:.4g}  lr {lr:.2g}  {speed} images/s")
        if not trainer.progress.visible:
            per_iteration = (now - self._started) / (iteration - self.first_iteration)
            left = timedelta(seconds=round(per_iteration * (total - iteration)))
            text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            logger.info(f"epoch {epoch}/{trainer.max_epochs}  iteration {iteration}/{total}  {text}  ETA {left}")
        self.restart_clock()
