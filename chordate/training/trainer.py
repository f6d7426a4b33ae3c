"""The trainer: the loop over epochs and batches."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from chordate import launch
from chordate.data.dataset import Dataset
from chordate.data.loader import Loader
from chordate.distributed import average_buffers
from chordate.errors import CheckpointError, ConfigError, DataError
from chordate.failures import explain_failures
from chordate.model_contracts import Metric, Model, check_implements, check_number_names, total_loss
from chordate.progress import ProgressBar
from chordate.registry import CALLBACKS
from chordate.signals import StopSignals
from chordate.structures import Batch
from chordate.text import format_metric
from chordate.training import training_state
from chordate.training.callbacks import Callback, JSONLogger, TensorBoardLogger, check_callback
from chordate.training.ema import WeightAverage
from chordate.training.evaluation_loop import evaluate, to_device
from chordate.training.logging import logger, run_log
from chordate.training.loss_log import LossLog
from chordate.training.optimizer import build_optimizer, optimizer_settings
from chordate.training.precision import autocast, gradient_scaler, use_channels_last
from chordate.training.prepare import compile_model, find_unused_parameters, prepare_model, wrap_ddp
from chordate.training.schedule import build_schedule
from chordate.training.settings import TrainSettings
from chordate.training.step_log import StepLog, log_setup
from chordate.weights.checkpoint_folder import CheckpointFolder
from chordate.weights.load_report import abbreviate
from chordate.work_dir_lock import locked


class Trainer:
    """Trains a model, evaluates it, and saves checkpoints.

    `Trainer(model, loader, optimizer=dict(type="SGD", lr=0.1), train=dict(epochs=3), work_dir="run").train()`

    An iteration is one optimizer step over `accumulate` batches. The number of iterations done determines the epoch,
    the learning rate and the next images, so a run can stop after any iteration and resume exactly from there.

    Args:
        model: the model to train, which is moved to this process's device.
        train_loader: the training data; must yield equal numbers of batches on all ranks.
        optimizer, train, schedule: sections of a config, see OptimizerSettings, TrainSettings, `build_schedule`.
        work_dir: folder for checkpoints and logs.
        val_loader, metric: validation data and metric; None for no evaluation.
        callbacks: Callbacks, or dicts that CALLBACKS builds.
        resume: path of a checkpoint to resume; True for the newest readable checkpoint in `work_dir`, if there is one.
        config: the config, saved as text for reference; None for a config of `optimizer`, `schedule` and `train`.

    Attributes:
        module: the original model; `model` is the compiled or DDP-wrapped module that training calls.
        ema: the exponential moving average (EMA) of the model's weights, or None.
        iteration: number of iterations done.
        history: all records of the log, including records from before a resume: dicts with `mode`, `epoch`,
            `iteration`, and losses or metrics.
        best: `metric`, `score` and `iteration` of the best evaluation, or None.
        lower_is_better: names of the metrics for which lower is better; callbacks may add names.
        resumed: whether the training continues the run in `work_dir`, instead of starting a new run there.

    Raises:
        ConfigError: a setting is unknown or invalid, or only one of `val_loader` and `metric` is given.
        DataError: `train_loader` has no batches.
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
        self.config_text = self.config.pretty_text  # made once, since every checkpoint has it and formatting is slow
        self.work_dir, self.resume, self.resumed = Path(work_dir), resume, False
        self.folder = CheckpointFolder(work_dir, settings.keep)
        self.progress = ProgressBar()

        if (val_loader is None) != (metric is None):
            raise ConfigError("evaluation needs both val_loader and metric; pass both, or neither")
        for loader in (train_loader, val_loader or train_loader):
            check_implements(loader, Loader, [])
        self.train_loader, self.val_loader = train_loader, val_loader
        self.metric: Any = metric
        self.batches_per_epoch = len(train_loader)
        if not self.batches_per_epoch:
            raise DataError("train_loader has length 0, so it yields no batch; its dataset needs at least one image")
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
        for other in listed:
            check_callback(other)
            # Drop a default callback if `callbacks` has a callback of this type with the same settings.
            own = [c for c in own if not (isinstance(other, type(c)) and vars(c).items() <= vars(other).items())]
        self.callbacks = [*own, *listed]
        self.lower_is_better = set(metric.lower_is_better) if metric else set()
        data = train_loader.dataset
        self.losses = LossLog(data.id_in_file) if isinstance(data, Dataset) else LossLog()
        # Numbers of iterations: done in total, done at the last evaluation, and done at the last save.
        self.iteration = self.evaluated = self.saved = 0
        self.left_unevaluated: int | None = None  # iteration of the resumed checkpoint, if an evaluation was due
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.stop_reason: str | None = None

    @property
    def epoch(self) -> int:
        """Number of complete epochs done."""
        return self.iteration // self.steps_per_epoch

    @property
    def evaluated_model(self) -> Any:
        """The model that evaluations use: the model with EMA weights if `train.ema` is set, else `module`."""
        return self.module if self.ema is None else self.ema.module

    def train(self, *, is_locked: bool = False) -> Model:
        """Train to the end, from the start or from the checkpoint in `resume`.

        Args:
            is_locked: whether the caller already holds the lock of the work dir; otherwise, it is taken here.

        Returns:
            The trained model; its EMA weights are in `ema.module`.

        Raises:
            TrainingError: a loss is non-finite.
            CheckpointError: the checkpoint to resume does not fit, or a checkpoint cannot be written.
            ConfigError: another training run holds the lock.
            MachineError: a disk is full, a loader process was killed, or the connection to another rank is lost.
            SystemExit: the process received SIGINT, SIGTERM or SIGHUP; the run is saved.
        """
        with (
            run_log(self.work_dir) as self.log_dir,
            StopSignals() as self.signals,
            explain_failures(self.resume_hint),
            nullcontext() if is_locked else locked(self.work_dir),
        ):
            self._start()
            errors: list[Exception] = []
            try:
                for callback in self.callbacks:
                    callback.on_train_start(self)
                with self.progress.task("training", self.max_iterations, self.iteration) as self.update_bar:
                    # The resumed checkpoint was saved before its evaluation, or at the end of a shorter run.
                    if self.iteration > self.evaluated and self.evaluation_is_due():
                        self._evaluate()
                    while self.iteration < self.max_iterations and self.stop_reason is None:
                        self._train_epoch()
                    if self.stop_reason is not None:
                        logger.info(f"stopped: {self.stop_reason}")
                    # Saves only if nothing was trained after resuming an older checkpoint (such as best_top1.pt).
                    training_state.save(self)
            finally:
                for loader in (self.train_loader, self.val_loader or self.train_loader):
                    loader.stop_workers()
                for callback in self.callbacks:
                    try:
                        callback.on_train_end(self)
                    except Exception as error:  # raised below: here it would hide the error that ended training
                        logger.warning(f"{type(callback).__name__}.on_train_end raised {error!r}")
                        errors.append(error)
            if errors:
                raise errors[0]
        return self.module

    def _train_epoch(self) -> None:
        """Train from the current iteration to the end of its epoch."""
        self.model.train()
        for batches in self._iterations():
            with self.losses.explain_errors():
                if self.world_size > 1 and self.iteration == self.log.first_iteration:
                    self._find_unused_parameters(batches[0])
                losses = self.train_step(batches)
                self.iteration += 1
                signal_received = self._read_losses()
            self.log.step(batches)
            for callback in self.callbacks:
                callback.on_step_end(self, losses)
            if self._save_is_due():
                training_state.save(self)
            self._exit_on_signal(signal_received or (self.world_size == 1 and self.interrupted()))
            if self.evaluation_is_due():
                self._evaluate()
            if self.stop_reason is not None:
                self.losses.read()
                self.log.step([], stopping=True)
                training_state.save(self)
            if self.stop_reason is not None or self.iteration == self.max_iterations:
                break
        if self.world_size > 1:
            self.train_loader.report_problems()

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Run one optimizer step on the mean gradient of the batches. Returns the losses of the last batch, on the
        device. Synchronizes with the device only in fp16 with an optimizer that is not fused.
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
            # In fp16, a non-finite norm is no error: gradients overflow occasionally by design, and the scaler then
            # skips the step.
            ids = [info.image_id for batch in batches for info in batch.infos]
            self.losses.record(iteration, {"grad_norm": norm}, ids, guarded=amp != "fp16")
        try:
            self.scaler.step(self.optimizer)
        except KeyError as error:
            if self.resume is None or self.iteration > self.log.first_iteration:
                raise
            raise CheckpointError(f"{self.resume}: its optimizer state has no {error}; the file is damaged") from error
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.module, iteration)
        return losses

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the losses of a batch, and their sum."""
        with autocast(self.device, self.settings.amp):
            losses = model(to_device(batch, self.device, self.channels_last))
            return losses, total_loss(losses)

    def _evaluate(self) -> None:
        """Evaluate, log the metrics, and save the model if it is the best so far.

        If a signal ends the run during the evaluation, no metrics are logged, and the resumed run evaluates again.
        """
        metrics = self.evaluate(self.interrupted)
        for callback in self.callbacks:
            self._exit_on_signal(self.interrupted())
            callback.on_evaluation_end(self, metrics)
        self._exit_on_signal(self.interrupted())
        self.evaluated, whole = self.iteration, self.iteration % self.steps_per_epoch == 0
        self.record("val", self.epoch, metrics)
        numbers = "  ".join(f"{name} {format_metric(value)}" for name, value in metrics.items())
        logger.info(f"evaluation after {f'epoch {self.epoch}, ' if whole else ''}iteration {self.iteration}: {numbers}")
        training_state.save_best(self, metrics)
        self.log.restart_clock()

    def evaluate(self, interrupted: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Compute the metric on the validation data in full precision, with the EMA weights if there are any. The
        metrics are equal on all ranks. Stops and returns an empty dict if `interrupted()` is true after a batch."""
        self.average_buffers()
        opts: dict[str, Any] = {"channels_last": self.channels_last, "interrupted": interrupted}
        return evaluate(self.evaluated_model, self.val_loader, self.metric, self.device, progress=self.progress, **opts)

    def interrupted(self) -> bool:
        """Whether the process received a signal, and can stop at once because saving needs no other rank."""
        alone = self.world_size == 1 or self.saved == self.iteration
        return alone and self.signals.received is not None

    def stop(self, reason: str) -> None:
        """Save and end training after this iteration. All ranks must call it. The log ends with the reason."""
        self.stop_reason = reason

    def average_buffers(self) -> None:
        """Average BatchNorm's statistics over the ranks, so that the models are identical. All ranks must call this."""
        average_buffers(self.module)
        if self.ema is not None:
            average_buffers(self.ema.module)

    def _start(self) -> None:
        """Log the setup, seed the generators, and start a new run or resume one."""
        self.stop_reason = None
        log_setup(self)
        launch.seed_everything(self.settings.seed + self.rank)
        if self.settings.ema is not None:
            self.ema = WeightAverage(self.module, self.settings.ema)
        training_state.resume_or_start(self)
        if self.rank == 0:
            self.config.dump(self.log_dir / Path(self.config.filename or "config.py").name)
        if self.iteration >= self.max_iterations:
            unit = "epochs" if self.settings.by_epoch else "iterations"
            logger.warning(f"all {self.max_iterations} iterations are done already; raise train.{unit} to train longer")
        self.log = StepLog(self)

    def _save_is_due(self) -> bool:
        every = self.settings.save_every_iterations
        due = every is not None and self.iteration % every == 0
        return due or self.settings.is_due(self.settings.save_every, self.iteration, self.steps_per_epoch)

    def evaluation_is_due(self) -> bool:
        """Whether an evaluation is due after this iteration."""
        due = self.settings.is_due(self.settings.eval_every, self.iteration, self.steps_per_epoch)
        return self.val_loader is not None and (due or self.iteration == self.left_unevaluated)

    def _iterations(self) -> Iterator[list[Batch]]:
        """Yield a list of `accumulate` batches per remaining iteration of the epoch; the last list may be shorter."""
        total = self.batches_per_epoch
        size = min(self.settings.accumulate, total)
        start = self.iteration % self.steps_per_epoch * size
        # The workers' seed is computed from seed, epoch and rank. If it were drawn from the global generator, the
        # random numbers of dropout would change after every resume.
        seed = np.random.SeedSequence((self.settings.seed, self.epoch, self.rank)).generate_state(1)
        self.train_loader.start_epoch(self.epoch, start, worker_seed=int(seed[0]))
        batches = iter(self.train_loader)
        for position in range(start, total, size):
            accumulated = list(islice(batches, size))
            if len(accumulated) < min(size, total - position):
                raise DataError(f"the loader's length is {total} batches per epoch, but it yielded fewer")
            yield accumulated

    def _gradient_sync(self, last: bool) -> Any:
        """Context manager for one batch: DDP averages gradients only in the last batch of an iteration."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) and not last else nullcontext()

    def _find_unused_parameters(self, batch: Batch) -> None:
        """Enable DDP's `find_unused_parameters` if some parameters get no gradient from the loss of `batch`.

        Without this option, DDP would raise an error in the next step, since it waits for these gradients. The option
        costs time in every step, so it is not always enabled.
        """
        unused = find_unused_parameters(self.module, lambda: self._forward(self.module, batch)[1])
        if unused:
            self.model = wrap_ddp(self.model.module, self.device, find_unused=True)  # type: ignore[arg-type]
            logger.warning(
                f"no loss depends on {abbreviate(unused)}, so these parameters are not trained; training is a little "
                f"faster without them, for example with a backbone that outputs only the feature maps in use"
            )

    def _read_losses(self) -> bool:
        """Read the losses if due; on the CPU, they are due in every iteration.

        Returns:
            Whether the losses were read and any rank received a signal.
        """
        log_due = self.iteration % self.settings.log_every == 0
        due = self.device.type == "cpu" or log_due or self._save_is_due() or self.evaluation_is_due()
        return due and self.losses.read(self.signals.received is not None)

    def _exit_on_signal(self, agreed: bool) -> None:
        """Save and exit if `agreed`: all ranks know of a signal, or this rank got one and need not wait for others."""
        if agreed:
            received = self.signals.received or signal.SIGTERM  # `received` is None if only another rank got a signal
            training_state.save(self)
            after = f"after iteration {self.iteration}, which is saved; continue with --resume"
            logger.warning(f"stopped by {received.name} {after}")
            raise SystemExit(128 + received)

    def resume_hint(self) -> str:
        """The end of a run's error messages: names the checkpoint from which `--resume` continues."""
        last = self.folder.last() or (f"iteration {self.saved}" if self.saved else "")
        return f"--resume continues from {last}" if last else "no checkpoint is saved yet"

    def record(self, mode: str, epoch: int, numbers: Mapping[str, float]) -> None:
        """Add a record to the history, and pass it to the callbacks."""
        check_number_names(numbers, "a loss or metric")
        plain = {name: float(value) for name, value in numbers.items()}
        self.history.append({"mode": mode, "epoch": epoch, "iteration": self.iteration, **plain})
        for callback in self.callbacks:
            callback.on_log(self, self.history[-1])
