"""`chordate.train`: trains the model of a config, as the command `chordate train` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm

from chordate import launch
from chordate.arguments import checked_call
from chordate.config import check_plain, check_save_best, list_section, load_config, naming_files, part_section, section
from chordate.data.check_files import check_all_files
from chordate.data.loader import build_dataset, build_loader, check_data_section
from chordate.errors import ConfigError
from chordate.evaluation.build_metric import build_metric
from chordate.models.build import build_model, image_channels, start_from, warn_about_frozen_stages
from chordate.registry import CALLBACKS
from chordate.text import pluralize, printable
from chordate.training.callbacks import Callback, check_monitored
from chordate.training.evaluation_loop import trial_evaluation
from chordate.training.logging import logger, run_log
from chordate.training.optimizer import optimizer_arguments
from chordate.training.schedule import schedule_settings
from chordate.training.settings import TrainSettings
from chordate.training.trainer import Trainer
from chordate.weights.checkpoint_folder import CheckpointFolder
from chordate.weights.checkpoint_sources import check_exists
from chordate.work_dir_lock import locked


@checked_call(remedy="the settings of a run, such as train.epochs, are in its config")
def train(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    data_root: str | Path = "data",
    work_dir: str | Path | None = None,
    resume: bool | str | Path | None = None,
    load_from: str | Path | None = None,
    callbacks: Sequence[Callback | Mapping[str, Any]] = (),
) -> Trainer:
    """Train the model of a config to the end.

    Args:
        config: the name of a packaged config, the path of a config file, a Config, or a dict.
        data_root: folder to which the datasets' paths are relative.
        work_dir: folder for logs and checkpoints; by default `work_dirs/<the config's name>`.
        resume: path of a checkpoint to resume exactly; True for the newest checkpoint in `work_dir`, if there is one.
        load_from: path or URL of a checkpoint of any known format that initializes the whole model, even if its classes
            differ (weights of classes with the same name are loaded, other classes keep their initial weights).
            Overrides `train.load_from`, and replaces the backbone's pretrained weights. Ignored if `resume=True` finds
            a checkpoint; an error if `resume` is a path.
        callbacks: callbacks in addition to the callbacks of the config.

    Returns:
        The trainer after training: `module` is the trained model, `ema` the EMA of its weights, `history` the log,
        `best` the best evaluation.

    Raises:
        ChordateError: an argument, the config, the data or a checkpoint is invalid or does not fit, a loss is
            non-finite, another run is using `work_dir`, or the machine failed (see MachineError).
        SystemExit: the process received SIGINT, SIGTERM or SIGHUP; the run is saved.
    """
    if load_from and resume and resume is not True:
        raise ConfigError(f"resume={resume} continues with the resumed run's weights; leave out load_from={load_from}")
    cfg = load_config(config)
    check_plain(cfg)  # the config is saved as text in the log folder and in checkpoints
    settings = TrainSettings.from_config(section(cfg, "train"))
    work_dir = Path(work_dir or Path("work_dirs") / Path(cfg.filename or "config").stem)
    ranks: dict[str, Any] = dict(zip(("rank", "world_size"), launch.start(settings.seed)))
    # Locked before the newest checkpoint is chosen: a run that is still being stopped may save a newer one.
    with run_log(work_dir), locked(work_dir), naming_files(cfg):
        data = section(cfg, "train_data")
        check_settings(cfg, settings)
        callbacks = [CALLBACKS.build(callback) for callback in (*list_section(cfg, "callbacks"), *callbacks)]
        channels = image_channels(cfg)
        # The first start of a run with resume=True has no checkpoint yet, so it needs the pretrained weights.
        newest = CheckpointFolder(work_dir).newest() if resume is True else None
        resumes = bool(newest or (resume and resume is not True))
        weights, weights_key = load_from or settings.load_from, "load_from" if load_from else "train.load_from"
        if weights and not resumes:
            check_exists(weights, weights_key)
        if resumes and weights:
            logger.info(f"{weights} is not loaded: the resumed checkpoint has the weights")
        dataset = build_dataset(data, data_root=data_root, training=True, seed=settings.seed, channels=channels)
        model = build_model(cfg, meta=dataset.meta, pretrained=not (resumes or weights))
        padding: dict[str, Any] = {"size_divisor": model.size_divisor}
        single = {"drop_single": any(isinstance(module, _BatchNorm) for module in model.modules())}
        train_loader = build_loader(dataset, data, training=True, seed=settings.seed, **single, **padding, **ranks)
        val_set: Any = ()
        val_loader = metric = None
        if cfg.get("val_data"):
            val_data = section(cfg, "val_data")
            same: dict[str, Any] = {
                "meta": dataset.meta,
                "meta_of": "the training data",
                "data_root": data_root,
                "channels": channels,
            }
            val_set = build_dataset(val_data, training=False, **same)
            check_all_files(val_set, "val_data")
            val_loader = build_loader(val_set, val_data, training=False, **padding, **ranks)
            metric = build_metric(part_section(cfg, "metric"), val_set)
            metric.check_model(model)
        names = ", ".join(map(printable, dataset.classes[:10])) + (", …" if len(dataset.classes) > 10 else "")
        counts = f"{pluralize(len(dataset), 'image')} to train on, {len(val_set)} to evaluate on, annotations checked"
        logger.info(f"{counts}; {pluralize(len(dataset.classes), 'class')}: {names}")
        if weights and not resumes:
            start_from(model, weights, weights_key)
        elif not resumes:
            warn_about_frozen_stages(model)
        trainer = Trainer(
            model,
            train_loader,
            optimizer=section(cfg, "optimizer"),
            schedule=section(cfg, "schedule", optional=True),
            train=section(cfg, "train"),
            work_dir=work_dir,
            val_loader=val_loader,
            metric=metric,
            callbacks=callbacks,
            resume=newest or resume,
            config=cfg,
        )
        if metric is not None and val_loader is not None and not resumes:
            # A separate metric, so that predictions of the trial evaluation are not counted later.
            trial_metric = build_metric(part_section(cfg, "metric"), val_set)
            metrics = trial_evaluation(trainer.module, val_loader, trial_metric, trainer.device)
            check_monitored(trainer.callbacks, settings.save_best, metrics)
        trainer.train(is_locked=True)
    return trainer


def check_settings(cfg: Config, settings: TrainSettings) -> None:
    """Check the settings that can be checked without data, before the datasets are read, which may take a minute.

    Raises:
        ConfigError: a setting of the data, the optimizer or the schedule is unknown or invalid, or `train.save_best` is
            set without `val_data`.
    """
    check_save_best(cfg)
    check_data_section(section(cfg, "train_data"), training=True)
    if cfg.get("val_data"):
        check_data_section(section(cfg, "val_data"), training=False)
    optimizer_arguments(section(cfg, "optimizer"))
    length = settings.epochs or settings.iterations or 0
    unreached = schedule_settings(section(cfg, "schedule", optional=True)).unreached(length)
    if unreached:
        unit = "epochs" if settings.by_epoch else "iterations"
        numbers = ", ".join(f"{milestone:g}" for milestone in unreached)
        logger.warning(f"schedule.milestones: {numbers} will not be reached, since train.{unit}={length}")
