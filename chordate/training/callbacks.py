"""Callbacks of a training run: the base class, and the built-in callbacks.

A config lists them as `callbacks = [dict(type="EarlyStopping", monitor="bbox_AP")]`; register your own with
`@CALLBACKS.register_module()`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from chordate.arguments import NonNegativeFloat, PositiveInt
from chordate.data.loader import Loader
from chordate.data.seeding import preserved_rng
from chordate.distributed import all_gather_object, is_main_process
from chordate.errors import ConfigError, TrainingError, unknown
from chordate.model_contracts import RECORD_KEYS, check_implements, total_loss
from chordate.registry import CALLBACKS
from chordate.training.evaluation_loop import evaluation_mode, to_device
from chordate.weights.checkpoint_folder import write_atomically

if TYPE_CHECKING:
    from chordate.training.trainer import Trainer


class Callback:
    """Base class of all callbacks. Its five methods do nothing; a subclass overrides the methods that it needs.

    The trainer calls the callbacks on every rank, in the order of the list, and passes itself as the first argument.
    Callbacks may read the trainer's attributes (see Trainer), such as `iteration` (iterations done), `epoch` (complete
    epochs), `module` (the model), `settings`, `log_dir` (`<work_dir>/<start time>/`), `resumed` and `history`. They may
    call `trainer.stop(reason)` (on all ranks), and add names to `trainer.lower_is_better`. An epoch has ended if
    `iteration % steps_per_epoch == 0`. A callback that computes its state from `history` resumes exactly, because
    checkpoints contain the history.
    """

    def on_train_start(self, trainer: Trainer) -> None:
        """Called before the first step. In a resumed run, the trainer's state has already been restored."""

    def on_step_end(self, trainer: Trainer, losses: dict[str, Tensor]) -> None:
        """Called after every optimizer step, before a checkpoint is saved. `losses` are the losses of the step's last
        batch on this rank; reading them synchronizes with the GPU."""

    def on_evaluation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Called after every evaluation, before the metrics are logged. Values added to `metrics` are treated like
        the values of the metric, and must be equal on all ranks. If this method iterates over data, it must return
        as soon as `trainer.interrupted()` is true."""

    def on_log(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        """Called with every new record of `trainer.history`: every `train.log_every` iterations, at the end of training
        and after every evaluation. The record has `mode` ("train" or "val"), `epoch`, `iteration`, and losses or
        metrics keyed by name. Only speed and memory differ between ranks."""

    def on_train_end(self, trainer: Trainer) -> None:
        """Called when training ends, with or without an error. An error in this method is logged; it is raised only if
        training and earlier callbacks ended without an error."""


def check_callback(callback: Any) -> None:
    """Raise ConfigError unless `callback` is a Callback whose `on_*` methods exist in the base class and can be called
    with the same arguments."""
    check_implements(callback, Callback, [])
    hooks = [name for name in vars(Callback) if name.startswith("on_")]
    for name in dir(type(callback)):
        if name.startswith("on_") and name not in hooks and callable(getattr(callback, name)):
            raise ConfigError(f"{type(callback).__name__}: {unknown('method of Callback', name, hooks)}")


@CALLBACKS.register_module()
class EarlyStopping(Callback):
    """Stops training when a metric has not improved for several evaluations.

    Args:
        monitor: name of the metric, such as "bbox_AP", or "val_loss" with the callback ValidationLoss.
        patience: number of evaluations without improvement after which training stops.
        mode: "max" if higher is better, "min" if lower is better; None for "min" if `monitor` is in the trainer's
            `lower_is_better`, else "max".
        min_delta: smaller or equal improvements do not count.
    """

    def __init__(
        self,
        monitor: str,
        patience: PositiveInt = 5,
        mode: Literal["max", "min"] | None = None,
        min_delta: NonNegativeFloat = 0.0,
    ):
        self.monitor, self.patience, self.mode, self.min_delta = monitor, patience, mode, min_delta

    def on_log(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        if record["mode"] != "val":
            return
        if self.monitor not in record:
            names = [name for name in record if name not in RECORD_KEYS]
            raise ConfigError(f"callbacks: EarlyStopping: {unknown('metric', self.monitor, names)}")
        mode = self.mode or ("min" if self.monitor in trainer.lower_is_better else "max")
        sign, best, waited = (1 if mode == "max" else -1), -math.inf, 0
        for past in trainer.history:
            if past["mode"] == "val":
                score = sign * past.get(self.monitor, math.nan)
                best, waited = (score, 0) if score > best + self.min_delta else (best, waited + 1)
        if waited >= self.patience:
            trainer.stop(f"{self.monitor} has not improved on {sign * best:.4g} for {waited} evaluations")


@CALLBACKS.register_module()
class ValidationLoss(Callback):
    """Adds the losses on the validation data to the metrics: their sum `val_loss`, and `val_<name>` for each loss.

    The losses are means over all images, computed in evaluation mode and full precision (with EMA weights if
    `train.ema` is set). Random sampling has the same seed in every evaluation. This callback needs a second pass over
    the validation data.
    """

    def on_train_start(self, trainer: Trainer) -> None:
        """Compute the loss of one sample, so that missing targets (for example masks) are reported early."""
        if trainer.val_loader is None:
            raise ConfigError("ValidationLoss needs val_data; add it to the config")
        with evaluation_mode(trainer.module), preserved_rng():
            trainer.module.loss(to_device(trainer.val_loader.first_batch(), trainer.device, trainer.channels_last))

    def on_evaluation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        model, loader, images = trainer.evaluated_model, cast(Loader, trainer.val_loader), 0
        sums: dict[str, Tensor] = {}
        with evaluation_mode(model), evaluation_mode(trainer.module), preserved_rng():
            torch.manual_seed(trainer.settings.seed)
            for batch in trainer.progress.track(loader, "validation loss", len(loader)):
                batch = to_device(batch, trainer.device, trainer.channels_last)
                # Only losses that require grad count in the total. The EMA weights do not require grad, so the
                # training model is used to find these losses, once.
                if not images:
                    with torch.enable_grad():
                        trained = {name: value.requires_grad for name, value in trainer.module.loss(batch).items()}
                losses = model.loss(batch)
                for name, value in {**losses, "loss": total_loss(losses, trained)}.items():
                    sums[name] = sums.get(name, 0.0) + value.double() * len(batch)
                images += len(batch)
                if trainer.interrupted():
                    return
        parts = all_gather_object(({name: value.item() for name, value in sums.items()}, images))
        total = sum(count for _, count in parts)
        for name in dict.fromkeys(name for part, _ in parts for name in part):
            metrics[f"val_{name}"] = sum(part.get(name, 0.0) for part, _ in parts) / total
            trainer.lower_is_better.add(f"val_{name}")


def check_monitored(callbacks: Sequence[Callback], save_best: str | None, metrics: Mapping[str, float]) -> None:
    """Check, before training, that evaluations compute the metrics that `train.save_best` and EarlyStopping name.

    Skipped if `metrics` is empty, or if a custom callback may add metrics. With ValidationLoss, names that start with
    "val_" are not checked.

    Args:
        callbacks: the callbacks of the run.
        save_best: the setting `train.save_best`.
        metrics: the metrics that `trial_evaluation` returned.

    Raises:
        ConfigError: a name is not in `metrics`.
    """
    adding = [type(c) for c in callbacks if type(c).on_evaluation_end is not Callback.on_evaluation_end]
    if not metrics or set(adding) - {ValidationLoss}:
        return
    wanted = [("callbacks: EarlyStopping", c.monitor) for c in callbacks if isinstance(c, EarlyStopping)]
    names = [*metrics, "val_loss"] if adding else list(metrics)
    for setting, name in [("train.save_best", save_best), *wanted]:
        if name and name not in names and not (adding and name.startswith("val_")):
            raise ConfigError(f"{setting}: {unknown('metric', name, names)}")


@CALLBACKS.register_module()
class JSONLogger(Callback):
    """Writes a log file in the work dir: one line with a JSON object per record of the run (including records from
    before a resume), in full precision; NaN and Inf, which JSON does not have, become null. The trainer adds a
    JSONLogger for `log.jsonl`, unless its callbacks include one.

    A new run renames the file of an earlier run; the new name contains the time of the file's last write. A resumed run
    rewrites the file from the history in its checkpoint, so that no record is duplicated.

    Args:
        file: name of the log file.
    """

    def __init__(self, file: str = "log.jsonl"):
        self.file = file

    def on_train_start(self, trainer: Trainer) -> None:
        self.path = trainer.work_dir / self.file
        if is_main_process() and trainer.resumed:
            write_atomically(self.path, lambda file: file.write("".join(map(self.line, trainer.history)).encode()))
        elif is_main_process() and self.path.exists():
            stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(self.path.stat().st_mtime))
            os.replace(self.path, self.path.with_stem(f"{self.path.stem}_{stamp}"))

    def on_log(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        if is_main_process():
            try:
                with open(self.path, "a") as file:
                    file.write(self.line(record))
            except OSError as error:
                reason = f"{self.path}: cannot be written ({error.strerror or error})"
                raise TrainingError(f"{reason}; {trainer.resume_hint()}") from error

    @staticmethod
    def line(record: Mapping[str, Any]) -> str:
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        return json.dumps(plain) + "\n"


@CALLBACKS.register_module()
class CSVLogger(Callback):
    """Writes `<work_dir>/<start time>/log.csv` at every evaluation and at the end: one row per record of the run
    (including records from before a resume), and one column per field that occurs in any record."""

    def on_log(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        if record["mode"] == "val":
            self.on_train_end(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        if is_main_process():
            with open(trainer.log_dir / "log.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, dict.fromkeys(name for record in trainer.history for name in record))
                writer.writeheader()
                writer.writerows(trainer.history)


@CALLBACKS.register_module()
class TensorBoardLogger(Callback):
    """Writes TensorBoard event files to `<work_dir>/<start time>/tensorboard/`. `train.tensorboard=True` adds this
    callback."""

    _writer: Any = None

    def on_train_start(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imported lazily, since the import takes a second

        if is_main_process():
            self._writer = SummaryWriter(str(trainer.log_dir / "tensorboard"))

    def on_log(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        if self._writer is not None:
            for name, value in record.items():
                if name not in RECORD_KEYS:
                    self._writer.add_scalar(f"{record['mode']}/{name}", value, record["iteration"])

    def on_train_end(self, trainer: Trainer) -> None:
        if self._writer is not None:
            self._writer.close()
