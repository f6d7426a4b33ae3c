"""Train the model of a config."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from chordate.cli.common import add_config_arguments, data_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="where logs and checkpoints go (default: work_dirs/<config's name>)")
    parser.add_argument(
        "--resume", nargs="?", const=True, metavar="PATH",
        help="go on from a checkpoint; without PATH, from the newest in the work dir",
    )  # fmt: skip
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 mixed precision")


def run(arguments: argparse.Namespace) -> None:
    from chordate.api import build_model
    from chordate.config import load_config, section
    from chordate.data.loader import build_loader
    from chordate.errors import DataError
    from chordate.registry import METRICS
    from chordate.training.checkpoint_folder import CheckpointFolder
    from chordate.training.launch import finish, start
    from chordate.training.runner import Runner
    from chordate.training.settings import TrainSettings
    from chordate.visualization import plot_training

    cfg = load_config(arguments.config, arguments.cfg_options)
    if arguments.amp:
        cfg.merge_from_dict({"train.amp": "bf16"})
    work_dir = Path(arguments.work_dir or Path("work_dirs") / Path(cfg.filename).stem)
    seed = TrainSettings.from_config(section(cfg, "train")).seed
    rank, world_size = start(seed)
    shared: dict[str, Any] = {"data_root": data_root(arguments), "seed": seed, "rank": rank, "world_size": world_size}
    train_loader: Any = build_loader(section(cfg, "train_data"), training=True, **shared)
    classes = train_loader.dataset.classes
    told: dict[str, Any] = {"classes": classes, "skeleton": getattr(train_loader.dataset, "skeleton", None)}
    val_loader: Any = None
    metric = None
    if cfg.get("val_data"):
        val_loader = build_loader(section(cfg, "val_data"), training=False, **told, **shared)
        metric = METRICS.build(section(cfg, "metric"), dataset=val_loader.dataset)
    # A first start with --resume finds nothing to go on from, and needs the pretrained weights.
    resumes = CheckpointFolder(work_dir).newest() if arguments.resume is True else arguments.resume
    model = build_model(cfg, **told, pretrained=not resumes)
    runner = Runner.from_config(
        cfg, model=model, train_loader=train_loader, val_loader=val_loader, metric=metric,
        work_dir=work_dir, resume=arguments.resume,
    )  # fmt: skip
    images = (
        f"{len(train_loader.dataset)} images to train on, {len(val_loader.dataset) if val_loader else 0} to evaluate on"
    )
    names = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    runner.logger.info(f"{images}, annotations checked; {len(classes)} classes: {names}")
    for report in getattr(model, "pretrained_reports", ()):
        runner.logger.info(str(report))
    for loader in filter(None, (train_loader, val_loader)):
        for line in getattr(loader.dataset, "health_report", ()):
            runner.logger.warning(line)
    runner.train()
    if rank == 0:
        try:
            plot_training(work_dir / "log.jsonl", work_dir / "training.png")
        except DataError as error:  # a training that was complete already logs nothing in another folder
            runner.logger.warning(f"no curve is drawn: {error}")
    finish()
