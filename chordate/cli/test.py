"""Evaluate a checkpoint on the validation set of a config."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_config_arguments, data_root

if TYPE_CHECKING:
    from torch import nn

PICTURED = 6  # images on the sheet that --picture writes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="path or URL of a checkpoint, Chordate's own or a foreign one")
    parser.add_argument("--out", metavar="JSON", help="write the metrics to this file")
    parser.add_argument("--predictions", metavar="JSON", help="write the detections there, as COCO results")
    parser.add_argument("--picture", metavar="PNG", help="draw six images there, detections beside the ground truth")
    parser.add_argument("--amp", action="store_true", help="evaluate in bfloat16 mixed precision")


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from chordate.cli.common import load_trained
    from chordate.config import load_config, section
    from chordate.data.loader import build_loader
    from chordate.engine.evaluate import evaluate, stop_workers
    from chordate.engine.launch import finish, start
    from chordate.errors import ConfigError
    from chordate.registry import METRICS

    cfg = load_config(arguments.config, arguments.cfg_options)
    for path in map(Path, filter(None, (arguments.out, arguments.predictions, arguments.picture))):
        path.parent.mkdir(parents=True, exist_ok=True)  # now, not after an hour of evaluation
        if path.is_dir():
            raise ConfigError(f"{path}: a folder; name the file to write")
    rank, world_size = start()
    model = load_trained(cfg, arguments.checkpoint)
    loader: Any = build_loader(
        section(cfg, "val_data"), data_root=data_root(arguments), training=False, seed=0,
        classes=model.classes, rank=rank, world_size=world_size,
    )  # fmt: skip
    metric = METRICS.build(section(cfg, "metric"), dataset=loader.dataset)
    numbers = evaluate(model, loader, metric, amp="bf16" if arguments.amp else None)
    stop_workers(loader)
    if rank == 0:
        Console().print(metric.table())
        if arguments.out:
            Path(arguments.out).write_text(json.dumps(numbers, indent=2) + "\n")
        if arguments.predictions:
            metric.save_predictions(arguments.predictions)
        if arguments.picture:
            draw_sheet(model, loader.dataset, arguments.picture)
    finish()


def draw_sheet(model: nn.Module, dataset: Any, path: str) -> None:
    """Images from all over the data set, each with its ground truth and what the model finds."""
    from chordate.api import predict
    from chordate.visualization import side_by_side, write_image

    step = max(1, len(dataset) // PICTURED)
    infos = [dataset[0, index]["info"] for index in range(0, len(dataset), step)[:PICTURED]]
    found = predict(model, [info.path for info in infos])
    write_image(path, side_by_side(infos, found, dataset))
