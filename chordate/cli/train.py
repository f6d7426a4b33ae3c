"""Train the model of a config."""

from __future__ import annotations

import argparse
from pathlib import Path

from chordate.cli.common import add_config_arguments, data_root, nonempty

EXAMPLE = "chordate train faster-rcnn_r50_fpn_1x_coco --data-root /data/coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--work-dir", type=nonempty, help="folder for logs and checkpoints (default: work_dirs/<config's name>)"
    )
    parser.add_argument(
        "--resume", type=nonempty, nargs="?", const=True, metavar="PATH",
        help="resume from a checkpoint; without PATH, from the newest checkpoint in the work dir",
    )  # fmt: skip
    parser.add_argument(
        "--load-from", type=nonempty, metavar="CHECKPOINT",
        help="initialize the whole model from a checkpoint, possibly of other classes or of another library",
    )  # fmt: skip
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 mixed precision")


def run(arguments: argparse.Namespace) -> None:
    from chordate.config import load_config
    from chordate.distributed import is_main_process
    from chordate.errors import DataError
    from chordate.launch import finish
    from chordate.training.logging import logger
    from chordate.training.run import train
    from chordate.visualization import plot_training

    options = {**arguments.cfg_options, **({"train.amp": "bf16"} if arguments.amp else {})}
    cfg = load_config(arguments.config, options)
    work_dir = Path(arguments.work_dir or Path("work_dirs") / Path(cfg.filename).stem)
    trainer = train(
        cfg,
        data_root=data_root(arguments),
        work_dir=work_dir,
        resume=arguments.resume,
        load_from=arguments.load_from,
    )
    if is_main_process():
        try:
            plot_training(
                work_dir / "log.jsonl",
                work_dir / "training.png",
                lower_is_better=trainer.lower_is_better,
                first=trainer.settings.save_best,
            )
        except DataError as error:  # a finished run resumed in a new output folder has no log there
            logger.warning(f"no training curve is drawn: {error}")
    finish()
