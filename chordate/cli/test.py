"""Evaluate a checkpoint on the validation set of a config, or several classifiers together."""

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
    parser.add_argument(
        "more", nargs="*", metavar="CONFIG CHECKPOINT",
        help="further classifiers of the same classes: the probabilities of all are averaged (an ensemble)",
    )  # fmt: skip
    parser.add_argument("--out", metavar="JSON", help="write the metrics to this file")
    parser.add_argument("--predictions", metavar="JSON", help="write the detections there, as COCO results; or classes")
    parser.add_argument("--picture", metavar="PNG", help="draw six images there, and what is found beside the truth")
    parser.add_argument(
        "--report", metavar="DIR", help="pictures there of curves, classes, confusions and errors; JSON"
    )
    parser.add_argument("--amp", action="store_true", help="evaluate in bfloat16 mixed precision")


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from chordate.cli.common import load_trained
    from chordate.config import load_config, section
    from chordate.data.loader import build_loader
    from chordate.errors import ConfigError
    from chordate.evaluation import Ensemble
    from chordate.registry import METRICS
    from chordate.training.evaluate import evaluate, stop_workers
    from chordate.training.launch import finish, start
    from chordate.visualization.report_plots import write_report

    names = [arguments.config, arguments.checkpoint, *arguments.more]
    if len(names) % 2:
        raise ConfigError(f"{names[-1]}: each CONFIG needs a CHECKPOINT behind it; {len(names)} names were given")
    if arguments.more and arguments.picture:
        raise ConfigError("--picture shows what one model finds; leave it out for several")
    cfgs = [load_config(name, arguments.cfg_options) for name in names[::2]]
    for path in map(Path, filter(None, (arguments.out, arguments.predictions, arguments.picture))):
        path.parent.mkdir(parents=True, exist_ok=True)  # now, not after an hour of evaluation
        if path.is_dir():
            raise ConfigError(f"{path}: a folder; name the file to write")
    if arguments.report:
        Path(arguments.report).mkdir(parents=True, exist_ok=True)
    rank, world_size = start()
    models = [load_trained(cfg, checkpoint) for cfg, checkpoint in zip(cfgs, names[1::2])]
    check_same_classes(models, names[1::2])
    console = Console()
    metric: Any = None
    members: Any = None
    for cfg, model, name in zip(cfgs, models, names[1::2]):
        # The images are the first config's, in its batches; how they are prepared is each model's own.
        data = {**section(cfgs[0], "val_data"), "pipeline": section(cfg, "val_data").get("pipeline", [])}
        loader: Any = build_loader(
            data, data_root=data_root(arguments), training=False, seed=0,
            classes=model.classes, skeleton=getattr(model, "skeleton", None), rank=rank, world_size=world_size,
        )  # fmt: skip
        if metric is None:
            metric = METRICS.build(section(cfgs[0], "metric"), dataset=loader.dataset)
            members = Ensemble(metric) if arguments.more else None
            if arguments.report and not hasattr(metric, "report"):
                raise ConfigError(f"--report: {type(metric).__name__} gives none; CocoMetric does")
        numbers = evaluate(model, loader, members or metric, amp="bf16" if arguments.amp else None)
        stop_workers(loader)
        if members and rank == 0:
            console.print(f"{name} alone: " + ", ".join(f"{key} {value:.4f}" for key, value in numbers.items()))
    if members:
        numbers = members.evaluate_together()
    if rank == 0:
        console.print(metric.table())
        if arguments.out:
            Path(arguments.out).write_text(json.dumps(numbers, indent=2) + "\n")
        if arguments.predictions:
            metric.save_predictions(arguments.predictions)
        if arguments.picture:
            draw_sheet(models[0], loader.dataset, arguments.picture)
        if arguments.report:
            write_report(metric.report(), arguments.report)
    finish()


def check_same_classes(models: list[Any], names: list[str]) -> None:
    """Raise DataError unless all models tell the same classes apart, in the same order."""
    from chordate.errors import DataError

    first = models[0].classes
    for model, name in zip(models, names):
        if model.classes != first:
            kinds = [", ".join(classes[:5]) + (" …" if len(classes) > 5 else "") for classes in (first, model.classes)]
            raise DataError(
                f"{names[0]} has {len(first)} classes ({kinds[0]}), {name} {len(model.classes)} ({kinds[1]}); an "
                f"ensemble's models have the same, in the same order"
            )


def draw_sheet(model: nn.Module, dataset: Any, path: str) -> None:
    """Images from all over the data set, each with its ground truth and what the model finds."""
    from chordate.api import predict
    from chordate.data.image_folder import ImageFolder
    from chordate.visualization import class_sheet, side_by_side, write_image

    step = max(1, len(dataset) // PICTURED)
    if isinstance(dataset, ImageFolder):
        chosen = range(0, len(dataset), step)[:PICTURED]
        images = [dataset.decode(index) for index in chosen]
        truth = [dataset.classes[dataset.labels[index]] for index in chosen]
        drawn = [image.permute(1, 2, 0).numpy() for image in images]
        write_image(path, class_sheet(drawn, predict(model, images), truth, dataset.classes))
        return
    infos = [dataset[0, index]["info"] for index in range(0, len(dataset), step)[:PICTURED]]
    found = predict(model, [info.path for info in infos])
    write_image(path, side_by_side(infos, found, dataset))
