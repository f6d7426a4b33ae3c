"""The training loop and the evaluation loop, read from top to bottom.

They take the place of mmengine's, which restart an interrupted epoch, read losses back in every iteration, and count
accumulated batches as iterations. Hooks are called at the same points and with the same counts as there.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.runner import BaseLoop
from torch import nn

from chordate.errors import DataError, TrainingError
from chordate.structures import Batch
from chordate.training.amp import autocast
from chordate.training.evaluate import evaluate, to_device
from chordate.training.interrupt import StopSignals
from chordate.training.losses import LossLog, total_loss
from chordate.training.ranks import share_gradients, unreached
from chordate.training.schedule import build_schedule
from chordate.training.settings import TrainSettings
from chordate.weights.load_report import some


class TrainLoop(BaseLoop):
    """Trains in iterations, each one step of the optimiser over `accumulate` batches.

    One number says how far training is: the iterations done. Epoch, place in the epoch, learning rate and which images
    come next follow from it, so a run can stop after any iteration and go on exactly there.

    Args:
        runner: the Runner.
        dataloader: its batch sampler has `set_epoch(epoch, start_batch)`; as many batches on every rank.
        settings: the `train` section of the config.
    """

    def __init__(self, runner: Any, dataloader: Any, settings: TrainSettings):
        super().__init__(runner, dataloader)
        self.settings = settings
        self.batches_per_epoch = len(dataloader)
        if not self.batches_per_epoch:
            raise DataError("the training data gives no batch: it has fewer images than there are processes")
        self.steps_per_epoch = -(-self.batches_per_epoch // settings.accumulate)
        self.max_iters = settings.length(self.steps_per_epoch)
        self.max_epochs = -(-self.max_iters // self.steps_per_epoch)
        unit = self.steps_per_epoch if settings.by_epoch else 1
        self.schedule = build_schedule(runner.cfg.get("schedule"), self.max_iters, unit, self.steps_per_epoch)
        self.losses = LossLog()
        self.iter = 0
        self.evaluated = 0
        """The iterations that were done at the last evaluation."""
        self.stop_training = False
        """mmengine's EarlyStoppingHook sets it."""
        self._stopped: str | None = None
        """Where a signal ended training."""
        self._rehearsed = runner.world_size == 1

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.iter // self.steps_per_epoch

    @property
    def learning_rate(self) -> float:
        """Of this iteration, for parts that no rule scales."""
        return self.runner.learning_rate * self.schedule.factor(self.iter)

    def run(self) -> nn.Module:
        """Train to the end.

        Raises:
            TrainingError: a loss is not finite.
            SystemExit: SIGINT or SIGTERM came; the run is saved.
        """
        runner = self.runner
        runner.call_hook("before_train")
        if self.iter >= self.max_iters:
            runner.logger.warning(f"all {self.max_iters} iterations are done already; more train.epochs would go on")
        bar = runner.progress.task("training", self.max_iters, self.iter)
        with StopSignals() as self.signals, bar as self.update_bar:
            if self.iter > self.evaluated and self._evaluates():  # killed between saving and evaluating
                self._evaluate()
            while self.iter < self.max_iters and not self.stop_training and self._stopped is None:
                self._run_epoch()
        if self._stopped is not None:
            number = self.signals.received or signal.SIGTERM  # None where another rank got it
            runner.logger.warning(f"stopped by {number.name} {self._stopped}")
            raise SystemExit(128 + number)
        runner.call_hook("after_train")
        return runner.module

    def _run_epoch(self) -> None:
        """Train to the end of the epoch, from wherever in it we are."""
        runner, first = self.runner, self.iter % self.steps_per_epoch
        runner.call_hook("before_train_epoch")
        runner.model.train()
        batches = self._batches(first * self.settings.accumulate)
        for step in range(first, self.steps_per_epoch):
            self._run_iteration(step, self._take(batches, step))
            if step == self.steps_per_epoch - 1:
                runner.call_hook("after_train_epoch")
            self.iter += 1
            saved = self._saves()
            if saved:
                runner.save()
            if self._evaluates():
                self._evaluate()
            if self._agreed or (self.runner.world_size == 1 and self.signals.received):
                if not saved:
                    runner.save()
                self._stopped = f"after iteration {self.iter}, which is saved; --resume goes on from it"
            if self.iter == self.max_iters or self.stop_training or self._stopped is not None:
                break

    def _batches(self, start: int) -> Iterator[Batch]:
        """This epoch's batches from the `start`-th. The loader draws its workers' seed from a generator of the epoch's
        own: drawn from the global one, it would move dropout by one number more after every resume."""
        self.dataloader.batch_sampler.set_epoch(self.epoch, start)
        key = (self.settings.seed, self.epoch, self.runner.rank)
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        self.dataloader.generator = torch.Generator().manual_seed(seed)
        return iter(self.dataloader)

    def _take(self, batches: Iterator[Batch], step: int) -> list[Batch]:
        """The batches of one iteration; the last of an epoch may have fewer."""
        size = min(self.settings.accumulate, self.batches_per_epoch - step * self.settings.accumulate)
        taken = list(islice(batches, size))
        if len(taken) < size:
            raise DataError(f"the loader promised {self.batches_per_epoch} batches an epoch and gave fewer")
        return taken

    def _run_iteration(self, step: int, batches: list[Batch]) -> None:
        runner = self.runner
        runner.call_hook("before_train_iter", batch_idx=step, data_batch=batches)
        try:
            if not self._rehearsed:
                self._rehearse(batches[0])
            outputs = self._optimise(batches)
            self._read()
        except TrainingError:
            raise
        except Exception:
            self.losses.check()  # a NaN may be why: then say that, and where
            raise
        runner.call_hook("after_train_iter", batch_idx=step, data_batch=batches, outputs=outputs)

    def _rehearse(self, batch: Batch) -> None:
        """Several ranks wait for every parameter's gradient, or look in every iteration for parameters that the loss
        does not reach, which takes time; so find out once whether there are any."""
        runner = self.runner
        idle = unreached(runner.module, lambda: self._losses(runner.module, batch)[1])
        if idle:
            runner.model = share_gradients(runner.model.module, runner.device, search=True)
            runner.logger.warning(
                f"no loss reaches {some(idle)}, which stay as they are; training is a little faster without them, "
                f"for example with a backbone that makes only the maps that are used"
            )
        self._rehearsed = True

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """A batch's losses, and their sum."""
        runner = self.runner
        with autocast(runner.device, self.settings.amp):
            losses = model(to_device(batch, runner.device, self.settings.lays_channels_last(runner.device)))
            return losses, total_loss(losses)

    def _optimise(self, batches: list[Batch]) -> dict[str, torch.Tensor]:
        """One step: the mean gradient of the batches. Nothing in it waits for the device."""
        runner, wrapper, iteration = self.runner, self.runner.optim_wrapper, self.iter + 1
        self.schedule.apply(wrapper.optimizer, self.iter)
        image_ids: list[int] = []
        for number, batch in enumerate(batches, 1):
            ids = [info.image_id for info in batch.infos]
            with wrapper.optim_context(runner.model, last=number == len(batches)):
                losses, total = self._losses(runner.model, batch)
                self.losses.record(iteration, {**losses, "loss": total}, ids)
                wrapper.backward(total / len(batches))
            image_ids += ids
        norm = wrapper.step()
        if norm is not None:  # fp16 overflows now and then by design, and leaves out that step
            self.losses.record(iteration, {"grad_norm": norm}, image_ids, guarded=self.settings.amp != "fp16")
        if runner.ema is not None:
            runner.ema.update(runner.module, iteration)
        return losses

    def _read(self) -> None:
        """Read the losses where it costs nothing (CPU) or is due; the ranks then agree on whether to stop."""
        iteration = self.iter + 1
        due = (
            self.runner.device.type == "cpu"
            or iteration % self.settings.log_every == 0
            or self._saves(iteration)
            or self._evaluates(iteration)
        )
        self._agreed = due and self.losses.read(self.signals.received is not None)

    def _saves(self, iteration: int | None = None) -> bool:
        """Whether a checkpoint is due after `iteration` iterations (None: those done)."""
        iteration, settings = self.iter if iteration is None else iteration, self.settings
        often = settings.save_every_iterations
        return settings.is_due(settings.save_every, iteration, self.steps_per_epoch) or (
            often is not None and iteration % often == 0
        )

    def _evaluates(self, iteration: int | None = None) -> bool:
        """Whether an evaluation is due after `iteration` iterations (None: those done)."""
        iteration = self.iter if iteration is None else iteration
        return self.runner.val_loop is not None and (
            self.settings.is_due(self.settings.eval_every, iteration, self.steps_per_epoch)
        )

    def _evaluate(self) -> None:
        metrics = self.runner.val_loop.run()
        self.evaluated = self.iter
        self.runner.save_best(metrics)


class EvaluationLoop(BaseLoop):
    """Evaluates the model, or the average of its weights where one is kept, in full precision."""

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, settings: TrainSettings):
        super().__init__(runner, dataloader)
        self.metric, self.settings = evaluator, settings

    def run(self) -> dict[str, float]:
        """The metric's numbers, the same on every rank."""
        runner = self.runner
        runner.average_buffers()
        runner.call_hook("before_val")
        runner.call_hook("before_val_epoch")
        metrics = evaluate(
            runner.module if runner.ema is None else runner.ema.model,
            self.dataloader,
            self.metric,
            device=runner.device,
            channels_last=self.settings.lays_channels_last(runner.device),
            progress=runner.progress,
        )
        runner.call_hook("after_val_epoch", metrics=metrics)
        runner.call_hook("after_val")
        return metrics
