"""`chordate.train`: from a config to a trained model, the way of `chordate train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from chordate import launch
from chordate.config import list_section, load_config, part_section, section
from chordate.data.loader import build_dataset, build_loader
from chordate.errors import ConfigError
from chordate.evaluation.build_metric import build_metric
from chordate.models.build import build_model
from chordate.text import printable
from chordate.training.callbacks import Callback
from chordate.training.evaluation_loop import trial_evaluation
from chordate.training.logging import logger, run_log
from chordate.training.settings import TrainSettings
from chordate.training.trainer import Trainer
from chordate.weights.checkpoint_folder import CheckpointFolder
from chordate.weights.loading import load_checkpoint


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
        config: a packaged config's name, a file's path, a Config, or a dict.
        data_root: the folder that the data sets' paths are relative to.
        work_dir: for logs and checkpoints; by default `work_dirs/<the config's name>`.
        resume: a checkpoint to go on from exactly; True is the newest in `work_dir`, if there is one.
        load_from: a checkpoint of any known format whose weights the whole model starts from, also with other classes
            (rows of equal class names are kept, the others start anew); overrides `train.load_from`. It takes the
            place of the backbone's pretrained weights. A run that is resumed has its own weights and ignores it.
        callbacks: in addition to those of the config.

    Returns:
        The trainer, after training: its `module` is the trained model, `ema` the average of its weights, `history` the
        log, `best` the best evaluation.

    Raises:
        ChordateError: a config, data or a checkpoint that does not fit; a loss that is not finite.
        SystemExit: SIGINT or SIGTERM came; the run is saved.
    """
    if load_from and resume and resume is not True:
        raise ConfigError(f"resume={resume} goes on with the weights of that run; leave out load_from={load_from}")
    cfg = load_config(config)
    settings = TrainSettings.from_config(section(cfg, "train"))
    work_dir = Path(work_dir or Path("work_dirs") / Path(cfg.filename or "config").stem)
    rank, world_size = launch.start(settings.seed)
    ranks = {"rank": rank, "world_size": world_size}
    with run_log(work_dir):
        data = section(cfg, "train_data")
        dataset = build_dataset(data, data_root=data_root, training=True, seed=settings.seed)
        # A first start with resume=True has no checkpoint to go on from, and needs the pretrained weights.
        resumes = bool(CheckpointFolder(work_dir).newest() if resume is True else resume)
        load_from = None if resumes else load_from or settings.load_from
        model = build_model(cfg, meta=dataset.meta, pretrained=not (resumes or load_from))
        padding = {"size_divisor": model.size_divisor}
        train_loader = build_loader(dataset, data, training=True, seed=settings.seed, **padding, **ranks)
        val_set: Any = ()
        val_loader = metric = None
        if cfg.get("val_data"):
            val_data = section(cfg, "val_data")
            same: dict[str, Any] = {"meta": dataset.meta, "meta_of": "the training data"}
            val_set = build_dataset(val_data, data_root=data_root, training=False, **same)
            val_loader = build_loader(val_set, val_data, training=False, **padding, **ranks)
            metric = build_metric(part_section(cfg, "metric"), val_set)
        names = ", ".join(map(printable, dataset.classes[:10])) + (", …" if len(dataset.classes) > 10 else "")
        logger.info(
            f"{len(dataset)} images to train on, {len(val_set)} to evaluate on, annotations checked; "
            f"{len(dataset.classes)} classes: {names}"
        )
        if load_from:
            logger.info(str(load_checkpoint(model, load_from, strict=False)))
        for report in model.pretrained_reports:
            logger.info(str(report))
        trainer = Trainer(
            model,
            train_loader,
            optimizer=section(cfg, "optimizer"),
            schedule=section(cfg, "schedule", optional=True),
            train=section(cfg, "train"),
            work_dir=work_dir,
            val_loader=val_loader,
            metric=metric,
            callbacks=[*list_section(cfg, "callbacks"), *callbacks],
            resume=resume,
            config=cfg,
        )
        if metric is not None and val_loader is not None and not resumes:
            # A metric of its own, since this one has seen predictions.
            trial_metric = build_metric(part_section(cfg, "metric"), val_set)
            trial_evaluation(trainer.module, val_loader, trial_metric, trainer.device)
        trainer.train()
    return trainer
