"""The Runner: mmengine's, with its faults mended by its own extension points.

Hooks and their order, logger, message hub, visualiser, registries and the life of a run are mmengine's. Replaced are
the loops, the optimiser's wrapper and the schedules (each file says why); saving and resuming, because mmengine deletes
the old checkpoint before it writes the new, does not resume exactly, needs pickle and executes the config text in a
checkpoint; and launching, because it asks for a GPU.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import mmengine.runner
import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from torch import nn

from chordate import checks
from chordate.errors import CheckpointError, ConfigError, unknown
from chordate.training import launch, ranks, state
from chordate.training.amp import StepWrapper
from chordate.training.checkpoint_folder import POINTER, CheckpointFolder, best_name, read_checkpoint
from chordate.training.ema import WeightAverage
from chordate.training.evaluate import stop_workers
from chordate.training.log import JsonLines, LogHook
from chordate.training.loops import EvaluationLoop, TrainLoop
from chordate.training.optimizer import build_optimizer, scaled_lr
from chordate.training.progress import CurrentOutput, ProgressBar
from chordate.training.settings import TrainSettings
from chordate.training.wrapping import place, wrap
from chordate.weights.loading import load_checkpoint

_numbers = itertools.count()


class Runner(mmengine.runner.Runner):
    """Trains and evaluates a model; made by `from_config`.

    Attributes:
        module: the model itself; `model` is what training calls, wrapped for several ranks or compiled.
        ema: the average of the model's weights, or None.
        best: `metric`, `score` and `iteration` of the best evaluation, or None.
    """

    module: nn.Module
    train_loop: TrainLoop
    optim_wrapper: Any
    _train_loop: Any

    def __init__(self, settings: TrainSettings, resume_from: str | Path | None, **arguments: Any):
        self.settings, self.resume_from = settings, resume_from
        self.device = launch.device()
        self.progress = ProgressBar()
        self.ema: WeightAverage | None = None
        self.best: dict[str, Any] | None = None
        super().__init__(**arguments)
        self.folder = CheckpointFolder(self.work_dir, settings.keep)
        self.json_lines = JsonLines(Path(self.work_dir) / "log.jsonl")

    @classmethod
    def from_config(
        cls,
        cfg: Config | Mapping[str, Any],
        *,
        model: nn.Module,
        work_dir: str | Path,
        train_loader: Any = None,
        val_loader: Any = None,
        metric: Any = None,
        resume: bool | str | Path | None = None,
        hooks: Sequence[Hook | dict[str, Any]] = (),
    ) -> Self:
        """A Runner for a config and the parts that were built from it.

        Args:
            cfg: its sections `train`, `optimizer` and `schedule` are read here; all of it is kept as text.
            model: gives a dict of losses in training mode, a list of Detections in eval mode.
            work_dir: for logs and checkpoints.
            train_loader: None for a Runner that only evaluates.
            val_loader, metric: None for no evaluation.
            resume: a checkpoint to go on from; True is the newest whole one in `work_dir`, if there is one.
            hooks: mmengine hooks, or dicts that its registry builds; they are called like in mmengine, with a list of
                the iteration's batches as `data_batch` and its last batch's losses as `outputs`.

        Raises:
            ConfigError: an unknown or unfitting setting.
        """
        cfg = cfg if isinstance(cfg, Config) else Config(dict(cfg))
        settings = TrainSettings.from_config(cfg.get("train"))
        if (val_loader is None) != (metric is None):
            raise ConfigError("evaluation needs both val_data and metric; set both, or neither")
        launch.start()
        trains, evaluates = train_loader is not None, val_loader is not None
        runner = cls(
            settings,
            CheckpointFolder(work_dir).newest() if resume is True else resume or None,
            model=model,
            work_dir=str(work_dir),
            train_dataloader=train_loader,
            train_cfg={"type": TrainLoop, "settings": settings} if trains else None,
            optim_wrapper=dict(checks.section("optimizer", cfg.get("optimizer"))) if trains else None,
            val_dataloader=val_loader,
            val_cfg={"type": EvaluationLoop, "settings": settings} if evaluates else None,
            val_evaluator=metric,
            default_hooks={
                **dict.fromkeys(("runtime_info", "timer", "sampler_seed", "param_scheduler", "checkpoint")),
                "logger": LogHook(settings.log_every),
            },
            custom_hooks=list(hooks),
            launcher="pytorch" if torch.distributed.is_initialized() else "none",
            randomness={"seed": settings.seed, "diff_rank_seed": True},
            visualizer={
                "type": "Visualizer",
                "vis_backends": [{"type": "TensorboardVisBackend"}] if settings.tensorboard and trains else [],
            },
            # mmengine finds loggers and message hubs by this name; two runs of a second must not share them.
            experiment_name=f"{Path(work_dir).name}_{next(_numbers)}",
            cfg=cfg,
        )
        if resume is True and runner.resume_from is None:
            runner.logger.warning(f"no checkpoint in {work_dir} to resume from: training starts from the beginning")
        return runner

    def train(self) -> nn.Module:
        """Train to the end, from the start or from where the checkpoint to resume left off.

        Returns:
            The trained model (not the average of its weights; that is `ema.model`).

        Raises:
            ChordateError: see TrainLoop.run; a config or checkpoint that does not fit.
            SystemExit: SIGINT or SIGTERM came; the run is saved.
        """
        if self._train_loop is None:
            raise ConfigError("this Runner has no training data; give it a train_loader")
        self._train_loop = self.build_train_loop(self._train_loop)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if self.settings.ema is not None:
            self.ema = WeightAverage(self.module, self.settings.ema)
        self.call_hook("before_run")
        if is_main_process():
            self.folder.remove_temporary()
        self.load_or_resume()
        try:
            self.train_loop.run()
        finally:
            stop_workers(self._train_dataloader)
            stop_workers(self._val_dataloader)
        self.call_hook("after_run")
        return self.module

    def evaluate(self, checkpoint: str | Path | None = None) -> dict[str, float]:
        """Evaluate the model, with the weights of `checkpoint` where one is given.

        Returns:
            The metric's numbers, the same on every rank.
        """
        if checkpoint is not None:
            self.load_checkpoint(checkpoint)
        self._has_loaded = True  # what is evaluated is this model, not what training would resume from
        return self.val()

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Put the model on its device and make it ready for training on several ranks, compiled if wanted."""
        trains = self._train_dataloader is not None
        self.module = place(model, self.settings, self.device, ranks=self.world_size, trains=trains)
        return wrap(self.module, self.settings, self.device, ranks=self.world_size) if trains else self.module

    def build_optim_wrapper(self, optim_wrapper: Any) -> StepWrapper:
        """The optimiser of the config's `optimizer` section, for the batch size at hand, which is logged."""
        if isinstance(optim_wrapper, StepWrapper):
            return optim_wrapper
        images = self._train_dataloader.batch_sampler.batch_size
        batch_size = images * self.world_size * self.settings.accumulate
        optimizer = build_optimizer(self.module, optim_wrapper, batch_size)
        self.learning_rate = scaled_lr(optim_wrapper["lr"], optim_wrapper.get("base_batch_size"), batch_size)
        self.logger.info(
            f"{type(optimizer).__name__}: learning rate {self.learning_rate:g} (config: {optim_wrapper['lr']:g} for "
            f"{optim_wrapper.get('base_batch_size') or 'any number of'} images) for {batch_size} images an iteration = "
            f"{images} × {self.world_size} processes × {self.settings.accumulate} accumulated"
        )
        for group in optimizer.param_groups:
            self.logger.info(f"  {len(group['params'])} parameters with {group['name']}")
        return StepWrapper(optimizer, self.device, self.settings.amp, self.settings.clip_norm)

    def save(self) -> None:
        """Save where training is, as the last checkpoint. All ranks call it."""
        loop = self.train_loop
        whole_epoch = self.settings.by_epoch and loop.iter % loop.steps_per_epoch == 0
        name = f"epoch_{loop.epoch}.pt" if whole_epoch else f"iteration_{loop.iter}.pt"
        self._write(lambda saved: self.folder.save(name, saved), [*self.folder.files, name])

    def save_best(self, metrics: Mapping[str, float]) -> None:
        """Save as `best_<metric>.pt` if `metrics` has a higher score than any before. All ranks call it.

        Raises:
            ConfigError: `train.save_best` is none of the metrics.
        """
        key = self.settings.save_best
        if key is None:
            return
        if key not in metrics:
            raise ConfigError(f"train.save_best: {unknown('metric', key, metrics)}; mend it, and --resume goes on")
        score = float(metrics[key])
        same = self.best is not None and self.best["metric"] == key
        if score > (self.best["score"] if same and self.best else float("-inf")):
            self.best = {"metric": key, "score": score, "iteration": self.iter}
            self._write(lambda saved: self.folder.write(best_name(key), saved), self.folder.files)
            self.logger.info(f"best {key} so far: {score:.4f}")

    def save_checkpoint(self, out_dir: str, filename: str, **_: Any) -> None:
        """mmengine's way to ask for a checkpoint: writes one in our form. All ranks call it."""
        self._write(lambda saved: CheckpointFolder(out_dir).write(filename, saved), self.folder.files)

    def _write(self, write: Callable[[dict[str, Any]], Any], files: Sequence[str]) -> None:
        """Let the first rank write the state of all; if it cannot, all stop."""
        self.average_buffers()
        saved = state.training_state(self, files)
        self.call_hook("before_save_checkpoint", checkpoint=saved)
        failure: list[str | None] = [None]
        if is_main_process():
            try:
                write(saved)
            except CheckpointError as error:
                failure = [str(error)]
        broadcast_object_list(failure)
        if failure[0] is not None:
            raise CheckpointError(failure[0])

    def average_buffers(self) -> None:
        """Make BatchNorm's statistics those of all ranks, which then save and evaluate one model. All call it."""
        for model in [self.module] if self.ema is None else [self.module, self.ema.model]:
            ranks.average_buffers(model)

    def load_or_resume(self) -> None:
        """Take up the checkpoint to resume from, once; without one, begin a new log.

        Raises:
            CheckpointError: see `resume`; or ranks on machines without a common disk would not resume from the same.
        """
        if self._has_loaded:
            return
        names = {Path(path).name if path else "nothing" for path in all_gather_object(self.resume_from)}
        if len(names) > 1:
            raise CheckpointError(
                f"{self.work_dir}: the processes would resume from {' and '.join(sorted(names))}; copy the newest "
                f"checkpoint and {POINTER} to every machine"
            )
        if self.resume_from is not None:
            self.resume(str(self.resume_from))
        else:
            self._begin()
        self._has_loaded = True

    def resume(self, filename: str, *_: Any, **__: Any) -> None:
        """Go on exactly where the training that wrote `filename` was.

        Raises:
            CheckpointError: cut short, of another model, other classes or another optimiser.
        """
        checkpoint = read_checkpoint(filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        state.restore(self, checkpoint, filename)
        if self.folder.holds(filename):
            best = [self.folder.take_over(checkpoint["train"]["files"], checkpoint["train"]["best"])]
            broadcast_object_list(best)  # machines without a common disk must agree, or they would wait for one another
            self.best = best[0]
            self.json_lines.rewind(self.iter, self.train_loop.evaluated == self.iter)
        else:  # its files, best score and log are of another folder, and those that are here of another run
            self.logger.warning(f"{filename} is not in {self.work_dir}: a new log and a new best score begin there")
            self._begin()
        self.logger.info(f"resumed from {filename}: epoch {self.epoch}, iteration {self.iter}")

    def _begin(self) -> None:
        """Begin a new log; what another run left in the work dir is set aside."""
        if is_main_process():
            self.json_lines.begin()
            if aside := self.folder.begin():
                self.logger.warning(f"{self.work_dir}: checkpoints of an earlier run are set aside in {aside.name}/")

    def load_checkpoint(self, filename: str | Path, *_: Any, **__: Any) -> Any:
        """Load weights from any checkpoint that Chordate knows; returns the LoadReport."""
        report = load_checkpoint(self.module, filename)
        self.logger.info(str(report))
        return report

    def build_logger(self, *arguments: Any, **options: Any) -> MMLogger:
        """mmengine's logger; its own chatter goes to the file only, and lines keep clear of the progress bar."""
        logger = super().build_logger(*arguments, logger_name="chordate", **options)
        console = logger.handlers[0]
        console.setStream(CurrentOutput())
        chatter = str(Path(mmengine.__file__).parent)
        console.addFilter(lambda record: record.levelno >= logging.WARNING or not record.pathname.startswith(chatter))
        return logger

    def dump_config(self) -> None:
        """The whole config, into this start's own folder: mmengine puts it into the work dir, over whatever has its
        name there, such as the user's own file."""
        if is_main_process():
            self.cfg.dump(Path(self.log_dir) / Path(self.cfg.filename or "config.py").name)

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """One line (mmengine's asks the machine's compilers for two seconds)."""
        on_gpu, threads = self.device.type == "cuda", f"CPU ({torch.get_num_threads()} threads)"
        where = torch.cuda.get_device_name(self.device) if on_gpu else threads
        self.logger.info(
            f"torch {torch.__version__}, {where}, {self.world_size} process(es), seed {self.settings.seed}"
        )
