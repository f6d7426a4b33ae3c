"""The trainer: one loop over epochs and batches, to be read from top to bottom."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from chordate import launch
from chordate.data.loader import Loader
from chordate.distributed import average_buffers
from chordate.errors import ConfigError, DataError
from chordate.launch import StopSignals
from chordate.model_contracts import Metric, Model, check_implements, total_loss
from chordate.progress import ProgressBar
from chordate.registry import CALLBACKS
from chordate.structures import Batch
from chordate.text import pluralize
from chordate.training import training_state
from chordate.training.callbacks import Callback, JSONLogger, TensorBoardLogger
from chordate.training.ema import WeightAverage
from chordate.training.evaluation_loop import evaluate, to_device
from chordate.training.logging import logger, run_log
from chordate.training.loss_log import LossLog
from chordate.training.optimizer import build_optimizer, optimizer_settings
from chordate.training.precision import autocast, gradient_scaler, use_channels_last
from chordate.training.prepare import compile_model, find_unused_parameters, prepare_model, wrap_ddp
from chordate.training.schedule import build_schedule
from chordate.training.settings import TrainSettings
from chordate.weights.checkpoint_folder import CheckpointFolder
from chordate.weights.load_report import abbreviate


class Trainer:
    """Trains a model, evaluates it, and saves checkpoints.

    `Trainer(model, loader, optimizer=dict(type="SGD", lr=0.1), train=dict(epochs=3), work_dir="run").train()`

    An iteration is one step of the optimizer over `accumulate` batches. Epoch, learning rate and the next images follow
    from the iterations done, so a run can stop after any iteration and go on exactly there.

    Args:
        model: moved to this process's device.
        train_loader: gives as many batches on every rank.
        optimizer, train, schedule: sections of a config, see OptimizerSettings, TrainSettings, `build_schedule`.
        work_dir: for checkpoints and logs.
        val_loader, metric: None for no evaluation.
        callbacks: Callbacks, or dicts that CALLBACKS builds.
        resume: a checkpoint to go on from; True is the newest whole one in `work_dir`, if there is one.
        config: saved as text, for people to read; by default the three sections.

    Attributes:
        module: the model itself; `model` is what training calls, compiled or wrapped for several ranks.
        ema: the average of the model's weights, or None.
        iteration: iterations done.
        history: all records of the log, over all resumes: dicts with `mode`, `epoch`, `iteration` and numbers.
        best: `metric`, `score` and `iteration` of the best evaluation, or None.
        lower_is_better: names of the metrics that are better when lower; callbacks add theirs.
        resumed: whether this start goes on with the run in `work_dir`.

    Raises:
        ConfigError: an unknown or invalid setting.
        DataError: the loader is empty.
    """

    def __init__(
        self,
        model: Model,
        train_loader: Loader,
        *,
        optimizer: Mapping[str, Any],
        train: Mapping[str, Any],
        work_dir: str | Path,
        schedule: Mapping[str, Any] | None = None,
        val_loader: Loader | None = None,
        metric: Metric | None = None,
        callbacks: Sequence[Callback | Mapping[str, Any]] = (),
        resume: bool | str | Path | None = None,
        config: Config | None = None,
    ):
        self.settings = settings = TrainSettings.from_config(train)
        self.rank, self.world_size = launch.start()
        self.device = launch.device()
        self.channels_last = use_channels_last(settings.channels_last, self.device)
        self.config = config or Config({"optimizer": optimizer, "schedule": schedule, "train": train})
        self.work_dir, self.resume, self.resumed = Path(work_dir), resume, False
        self.folder = CheckpointFolder(work_dir, settings.keep)
        self.progress = ProgressBar()

        if (val_loader is None) != (metric is None):
            raise ConfigError("evaluation needs both val_data and metric; set both, or neither")
        for loader in (train_loader, val_loader or train_loader):
            check_implements(loader, Loader, [])
        self.train_loader, self.val_loader = train_loader, val_loader
        self.metric: Any = metric
        self.batches_per_epoch = len(train_loader)
        if not self.batches_per_epoch:
            raise DataError("the training data gives no batch: it has fewer images than there are processes")
        self.steps_per_epoch = -(-self.batches_per_epoch // settings.accumulate)
        self.max_iterations = settings.length(self.steps_per_epoch)
        self.max_epochs = -(-self.max_iterations // self.steps_per_epoch)

        self.module: Any = prepare_model(model, settings, self.device)
        self.model: nn.Module = compile_model(self.module, settings.compile)
        if self.world_size > 1:
            self.model = wrap_ddp(self.model, self.device)
        self.ema: WeightAverage | None = None

        self.batch_size = train_loader.images_per_batch * self.world_size * settings.accumulate
        self.optimizer = build_optimizer(self.module, optimizer, self.batch_size)
        self.optimizer_settings = optimizer_settings(optimizer)
        self.lr = self.optimizer_settings.scaled_lr(self.batch_size)
        self.scaler = gradient_scaler(self.device, settings.amp)
        unit = self.steps_per_epoch if settings.by_epoch else 1
        self.schedule = build_schedule(schedule, self.max_iterations, unit, self.steps_per_epoch)

        own = [JSONLogger(), TensorBoardLogger()] if settings.tensorboard else [JSONLogger()]
        listed: list[Callback] = [CALLBACKS.build(callback) for callback in callbacks]
        for other in listed:  # a listed one with the same settings takes the place of the trainer's own
            own = [c for c in own if not (isinstance(other, type(c)) and vars(c).items() <= vars(other).items())]
        self.callbacks = [*own, *listed]
        self.lower_is_better = set(metric.lower_is_better) if metric else set()
        self.losses = LossLog()
        self.iteration = self.evaluated = self.saved = 0  # iterations done: now, when last evaluated, when last saved
        self.left_unevaluated: int | None = None  # the iteration of a resumed checkpoint, if its evaluation was due
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.stop_reason: str | None = None

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.iteration // self.steps_per_epoch

    @property
    def evaluated_model(self) -> Any:
        """The model that is evaluated: the average of the weights if there is one."""
        return self.module if self.ema is None else self.ema.module

    def train(self) -> Model:
        """Train to the end, from the start or from the checkpoint to resume from.

        Returns:
            The trained model (not the average of its weights; that is `ema.module`).

        Raises:
            TrainingError: a loss is not finite.
            CheckpointError: the checkpoint to resume from does not fit, or one cannot be written.
            SystemExit: SIGINT or SIGTERM came; the run is saved.
        """
        with run_log(self.work_dir) as self.log_dir, StopSignals() as self.signals:
            self._start()
            errors: list[Exception] = []
            try:
                for callback in self.callbacks:
                    callback.on_train_start(self)
                with self.progress.task("training", self.max_iterations, self.iteration) as self._update_bar:
                    # Saved before its evaluation: killed in between, or the last of a shorter training.
                    if self.iteration > self.evaluated and self.evaluation_is_due():
                        self._evaluate()
                    while self.iteration < self.max_iterations and self.stop_reason is None:
                        self._train_epoch()
            finally:
                for loader in (self.train_loader, self.val_loader or self.train_loader):
                    loader.stop_workers()
                for callback in self.callbacks:
                    try:
                        callback.on_train_end(self)
                    except Exception as error:  # raised here, it would hide the error that ended training
                        logger.warning(f"{type(callback).__name__}.on_train_end: {error!r}")
                        errors.append(error)
            if errors:
                raise errors[0]
        return self.module

    def _train_epoch(self) -> None:
        """Train to the end of the epoch, from wherever in it the run is."""
        self.model.train()
        for batches in self._iterations():
            with self.losses.explain_errors():
                if self.world_size > 1 and self.iteration == self._first_iteration:
                    self._find_unused_parameters(batches[0])
                losses = self.train_step(batches)
                self.iteration += 1
                signal_received = self._read_losses()
            self._log(batches)
            for callback in self.callbacks:
                callback.on_step_end(self, losses)
            if self._save_is_due():
                training_state.save(self)
            self._exit_on_signal(signal_received)
            if self.evaluation_is_due():
                self._evaluate()
            if self.stop_reason is not None:
                self.losses.read()
                self._log([], stopping=True)
                training_state.save(self)
            if self.stop_reason is not None or self.iteration == self.max_iterations:
                return

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One step of the optimizer on the mean gradient of the batches. Nothing in it waits for the device.

        Returns:
            The losses of the last batch, on the device.
        """
        iteration, clip_norm, amp = self.iteration + 1, self.settings.clip_norm, self.settings.amp
        self.schedule.apply(self.optimizer, self.iteration)
        for number, batch in enumerate(batches, 1):
            with self._gradient_sync(last=number == len(batches)):
                losses, loss = self._forward(self.model, batch)
                ids = [info.image_id for info in batch.infos]
                self.losses.record(iteration, {**losses, "loss": loss}, ids)
                self.scaler.scale(loss / len(batches)).backward()
        if clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], clip_norm)
            # fp16 overflows now and then by design, and its scaler skips that step.
            ids = [info.image_id for batch in batches for info in batch.infos]
            self.losses.record(iteration, {"grad_norm": norm}, ids, guarded=amp != "fp16")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.module, iteration)
        return losses

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """A batch's losses, and their sum."""
        with autocast(self.device, self.settings.amp):
            losses = model(to_device(batch, self.device, self.channels_last))
            return losses, total_loss(losses)

    def _evaluate(self) -> None:
        """Evaluate, log the metrics, and save the model if it is the best. A signal leaves it all to the resume."""
        metrics = self.evaluate(self.interrupted)
        for callback in self.callbacks:
            self._exit_on_signal()
            callback.on_evaluation_end(self, metrics)
        self._exit_on_signal()
        self.evaluated, whole = self.iteration, self.iteration % self.steps_per_epoch == 0
        self._record("val", self.epoch, metrics)
        numbers = "  ".join(f"{name} {value:.4f}" if value != -1 else f"{name} –" for name, value in metrics.items())
        logger.info(f"evaluation after {f'epoch {self.epoch}, ' if whole else ''}iteration {self.iteration}: {numbers}")
        training_state.save_best(self, metrics)
        self._restart_clock()

    def evaluate(self, interrupted: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """The metric's numbers on the validation data, of the averaged weights if there are any, in full precision;
        the same on every rank. Without numbers it ends after a batch where `interrupted`."""
        self.average_buffers()
        how: dict[str, Any] = {"channels_last": self.channels_last, "progress": self.progress}
        return evaluate(self.evaluated_model, self.val_loader, self.metric, self.device, interrupted=interrupted, **how)

    def interrupted(self) -> bool:
        """Whether a signal came and training can end at once: there are no other ranks, which would have to agree."""
        return self.world_size == 1 and self.signals.received is not None

    def stop(self, reason: str) -> None:
        """End training after this iteration, saved. All ranks call it. The reason ends the sentence "stopped …"."""
        self.stop_reason = reason
        logger.warning(f"stopped {reason}")

    def average_buffers(self) -> None:
        """Make BatchNorm's statistics those of all ranks, which then save and evaluate one model. All ranks call it."""
        average_buffers(self.module)
        if self.ema is not None:
            average_buffers(self.ema.module)

    def _start(self) -> None:
        """Seed the generators, and begin a new run or go on with an earlier one."""
        self.stop_reason = None
        if self.rank == 0:
            self.config.dump(self.log_dir / Path(self.config.filename or "config.py").name)
        on_gpu, processes = self.device.type == "cuda", pluralize(self.world_size, "process")
        device = torch.cuda.get_device_name(self.device) if on_gpu else f"CPU ({torch.get_num_threads()} threads)"
        logger.info(f"torch {torch.__version__}, {device}, {processes}, seed {self.settings.seed}")
        logger.info(
            f"{type(self.optimizer).__name__}: learning rate {self.lr:g} (config: {self.optimizer_settings.lr:g} for "
            f"{self.optimizer_settings.base_batch_size or 'any number of'} images) for {self.batch_size} images per "
            f"iteration = {self.train_loader.images_per_batch} × {processes} × {self.settings.accumulate} accumulated"
        )
        for group in self.optimizer.param_groups:
            logger.info(f"  {pluralize(len(group['params']), 'parameter')} with {group['name']}")
        launch.seed_everything(self.settings.seed + self.rank)
        if self.settings.ema is not None:
            self.ema = WeightAverage(self.module, self.settings.ema)
        training_state.resume_or_start(self)
        if self.iteration >= self.max_iterations:
            unit = "epochs" if self.settings.by_epoch else "iterations"
            logger.warning(f"all {self.max_iterations} iterations are done already; more train.{unit} would go on")
        self._started, self._first_iteration = time.monotonic(), self.iteration
        self._restart_clock()

    def _save_is_due(self) -> bool:
        every = self.settings.save_every_iterations
        often = every is not None and self.iteration % every == 0
        return often or self.settings.is_due(self.settings.save_every, self.iteration, self.steps_per_epoch)

    def evaluation_is_due(self) -> bool:
        """Whether an evaluation follows this iteration."""
        due = self.settings.is_due(self.settings.eval_every, self.iteration, self.steps_per_epoch)
        return self.val_loader is not None and (due or self.iteration == self.left_unevaluated)

    def _iterations(self) -> Iterator[list[Batch]]:
        """The batches of each iteration from here to the end of the epoch; the last may have fewer."""
        size, total = self.settings.accumulate, self.batches_per_epoch
        start = self.iteration % self.steps_per_epoch * size
        # The workers' seed is the epoch's own: drawn from the global generator, it would move dropout by one number
        # more after every resume.
        seed = np.random.SeedSequence((self.settings.seed, self.epoch, self.rank)).generate_state(1)
        self.train_loader.start_epoch(self.epoch, start, worker_seed=int(seed[0]))
        batches = iter(self.train_loader)
        for place in range(start, total, size):
            accumulated = list(islice(batches, size))
            if len(accumulated) < min(size, total - place):
                raise DataError(f"the loader promised {total} batches per epoch and gave fewer")
            yield accumulated

    def _gradient_sync(self, last: bool) -> Any:
        """The context of one batch: ranks share gradients only in the last batch of an iteration."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) and not last else nullcontext()

    def _find_unused_parameters(self, batch: Batch) -> None:
        """DDP waits for every parameter's gradient, or searches in every step for parameters that the loss does not
        reach, which takes time. So find out once whether there are any."""
        unused = find_unused_parameters(self.module, lambda: self._forward(self.module, batch)[1])
        if unused:
            self.model = wrap_ddp(self.model.module, self.device, find_unused=True)  # type: ignore[arg-type]
            logger.warning(
                f"no loss reaches {abbreviate(unused)}, which stay as they are; training is a little faster without "
                f"them, for example with a backbone that makes only the maps that are used"
            )

    def _read_losses(self) -> bool:
        """Read the losses where it costs nothing (CPU) or is due; whether the ranks then agree that a signal came."""
        logs = self.iteration % self.settings.log_every == 0
        due = self.device.type == "cpu" or logs or self._save_is_due() or self.evaluation_is_due()
        return due and self.losses.read(self.signals.received is not None)

    def _exit_on_signal(self, agreed: bool = False) -> None:
        """Save and exit if a signal came, where there are other ranks only if they `agreed` on it."""
        if agreed or self.interrupted():
            received = self.signals.received or signal.SIGTERM  # None: another rank received it
            training_state.save(self)
            self.stop(f"by {received.name} after iteration {self.iteration}, which is saved; --resume goes on from it")
            raise SystemExit(128 + received)

    def _log(self, batches: Sequence[Batch], stopping: bool = False) -> None:
        """Record losses, learning rate and speed, every `log_every` iterations and at the end; where a callback is
        `stopping` training, at once (after a signal not: the resume goes on with the same means)."""
        self._images += sum(len(batch) for batch in batches) * self.world_size
        epoch = (self.iteration - 1) // self.steps_per_epoch + 1
        self._update_bar(description=f"epoch {epoch}/{self.max_epochs}")
        is_due = self.iteration % self.settings.log_every == 0 or self.iteration == self.max_iterations
        if is_due is stopping:  # not yet, or already recorded
            return
        now = time.monotonic()
        lr, speed = self.lr * self.schedule.factor(self.iteration - 1), round(self._images / (now - self._clock), 2)
        numbers = {"lr": lr, **self.losses.means(), **({"images_per_s": speed} if self._images else {})}
        if self.device.type == "cuda":
            numbers["memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        self._record("train", epoch, numbers)
        self._update_bar(0, status=f"loss {numbers['loss']:.4g}  lr {lr:.2g}  {speed} images/s")
        if not self.progress.visible:
            per_iteration = (now - self._started) / (self.iteration - self._first_iteration)
            left = timedelta(seconds=round(per_iteration * (self.max_iterations - self.iteration)))
            text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            where = f"epoch {epoch}/{self.max_epochs}  iteration {self.iteration}/{self.max_iterations}"
            logger.info(f"{where}  {text}  ETA {left}")
        self._restart_clock()

    def _record(self, mode: str, epoch: int, numbers: Mapping[str, float]) -> None:
        """Add a record to the history, and tell the callbacks."""
        plain = {name: float(value) for name, value in numbers.items()}
        self.history.append({"mode": mode, "epoch": epoch, "iteration": self.iteration, **plain})
        for callback in self.callbacks:
            callback.on_log(self, self.history[-1])

    def _restart_clock(self) -> None:
        self._images, self._clock = 0, time.monotonic()
