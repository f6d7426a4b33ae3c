"""Evaluate a checkpoint on the validation set of a config."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chordate.cli.common import add_config_arguments, data_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="path or URL of a checkpoint, Chordate's own or a foreign one")
    parser.add_argument("--out", help="write the metrics to this JSON file")
    parser.add_argument("--predictions", help="write the detections to this file, as COCO results JSON")
    parser.add_argument("--amp", action="store_true", help="evaluate in bfloat16 mixed precision")


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from chordate.cli.common import load_trained
    from chordate.config import load_config, section
    from chordate.data.loader import build_loader
    from chordate.engine.evaluate import evaluate
    from chordate.engine.launch import start
    from chordate.registry import METRICS

    cfg = load_config(arguments.config, arguments.cfg_options)
    rank, world_size = start()
    model = load_trained(cfg, arguments.checkpoint)
    loader = build_loader(
        section(cfg, "val_data"), data_root=data_root(arguments), training=False, seed=0,
        classes=model.classes, rank=rank, world_size=world_size,
    )  # fmt: skip
    metric = METRICS.build(section(cfg, "metric"), dataset=loader.dataset)
    numbers = evaluate(model, loader, metric, amp="bf16" if arguments.amp else None)
    if rank == 0:
        Console().print(metric.table())
        for path, write in ((arguments.out, lambda p: p.write_text(json.dumps(numbers, indent=2) + "\n")),
                            (arguments.predictions, metric.save_predictions)):  # fmt: skip
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                write(Path(path))
