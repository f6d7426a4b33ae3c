"""Evaluate a checkpoint, or an ensemble of several checkpoints, on the validation set of a config."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_config_arguments, data_root
from chordate.log_once import no_repeated_warnings

if TYPE_CHECKING:
    from chordate.data.dataset import Dataset
    from chordate.model_contracts import Metric, Model
    from chordate.structures import DatasetMeta

SHEET_IMAGES = 6  # number of images that --picture draws
EXAMPLE = "chordate test faster-rcnn_r50_fpn_1x_coco best_bbox_AP.pt --data-root /data/coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="path or URL of a checkpoint of Chordate or another library")
    parser.add_argument(
        "more", nargs="*", default=[], metavar="CONFIG CHECKPOINT",
        help="further models with the same classes; all predictions are averaged (an ensemble of classifiers)",
    )  # fmt: skip
    parser.add_argument("--out", metavar="JSON", help="write the metrics to this file")
    parser.add_argument(
        "--predictions", metavar="PATH",
        help="write the predictions: detections as COCO results to a JSON file, semantic labels as PNGs to a folder",
    )  # fmt: skip
    parser.add_argument("--picture", metavar="PNG", help="draw six images, ground truth next to prediction")
    parser.add_argument(
        "--report", metavar="DIR", help="write plots (PR curves, AP per class, confusion, error types) and their values"
    )
    parser.add_argument("--amp", action="store_true", help="evaluate in bfloat16 mixed precision")


@no_repeated_warnings()
def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from chordate.cli.common import load_trained
    from chordate.cli.ensemble import EnsembleMetric
    from chordate.composition import placed_parts
    from chordate.config import load_config, part_section, section
    from chordate.data.loader import build_dataset, build_loader
    from chordate.errors import ConfigError
    from chordate.evaluation.build_metric import build_metric
    from chordate.launch import finish, start
    from chordate.models.build import image_channels
    from chordate.text import format_metric, printable
    from chordate.training.evaluation_loop import evaluate

    names = [arguments.config, arguments.checkpoint, *arguments.more]
    if len(names) % 2:
        raise ConfigError(f"{names[-1]}: each CONFIG must be followed by its CHECKPOINT, got {len(names)} names")
    if arguments.more and arguments.picture:
        raise ConfigError("--picture shows the predictions of one model; leave it out for an ensemble")
    cfgs = [load_config(name, arguments.cfg_options) for name in names[::2]]
    make_folders(arguments)
    rank, world_size = start()

    def data_meta() -> DatasetMeta:
        data, channels = section(cfgs[0], "val_data"), image_channels(cfgs[0])
        return build_dataset(data, data_root=data_root(arguments), training=False, channels=channels).meta

    models = [load_trained(cfg, checkpoint, data_meta) for cfg, checkpoint in zip(cfgs, names[1::2])]
    check_same_meta(models, names[1::2])
    console = Console()
    metric: Any = None
    members: EnsembleMetric | None = None
    for cfg, model, name in zip(cfgs, models, names[1::2]):
        # Every member of the ensemble gets the first config's images and batches, but applies its own pipeline.
        data = section(cfgs[0], "val_data") | {"pipeline": placed_parts(section(cfg, "val_data"), "pipeline")}
        dataset = build_dataset(
            data, data_root=data_root(arguments), training=False, meta=model.meta, channels=image_channels(cfg)
        )
        loader: Any = build_loader(
            dataset, data, training=False, size_divisor=model.size_divisor, rank=rank, world_size=world_size
        )
        if metric is None:
            metric = build_metric(part_section(cfgs[0], "metric"), dataset)
            check_outputs(arguments, metric)
            members = EnsembleMetric(metric) if arguments.more else None
        metric.check_model(model)
        numbers = evaluate(model, loader, members or metric, amp="bf16" if arguments.amp else None)
        loader.stop_workers()
        if members and rank == 0:
            line = ", ".join(f"{key} {format_metric(n)}" for key, n in numbers.items())
            console.print(printable(f"{name} alone: {line}", None), markup=False)
    if members:
        numbers = members.compute_mean()
    if rank == 0:
        console.print(metric.table())
        write_results(arguments, numbers, metric)
        if arguments.picture:
            draw_sheet(models[0], dataset, arguments.picture)
    finish()


def make_folders(arguments: argparse.Namespace) -> None:
    """Create the folders of all output files before the evaluation, so that a wrong path fails early.

    Raises:
        ConfigError: the path of --out or --picture is an existing folder.
    """
    from chordate.errors import ConfigError

    for path in map(Path, filter(None, (arguments.out, arguments.picture))):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name the file to write")
    if arguments.predictions:
        Path(arguments.predictions).parent.mkdir(parents=True, exist_ok=True)
    if arguments.report:
        Path(arguments.report).mkdir(parents=True, exist_ok=True)


def check_outputs(arguments: argparse.Namespace, metric: Metric) -> None:
    """Prepare the metric for --predictions, and check that it supports --predictions and --report.

    Raises:
        ConfigError: the metric does not support a requested output.
    """
    from chordate.model_contracts import Metric
    from chordate.visualization import plot_report

    if arguments.predictions:
        metric.keep_predictions(arguments.predictions)
    if arguments.report and type(metric).report is Metric.report:
        plot_report(metric.report(), arguments.report)  # raises ConfigError, as the base class's report() is None


def write_results(arguments: argparse.Namespace, numbers: dict[str, float], metric: Metric) -> None:
    """Write --out, --predictions and --report."""
    from chordate.visualization import plot_report

    if arguments.out:
        Path(arguments.out).write_text(json.dumps(numbers, indent=2) + "\n")
    if arguments.predictions:
        metric.save_predictions(arguments.predictions)
    if arguments.report:
        plot_report(metric.report(), arguments.report)


def check_same_meta(models: list[Any], names: list[str]) -> None:
    """Raise DataError unless the classes and the other metadata are the same for all models."""
    from chordate.errors import DataError

    for model, name in zip(models, names):
        difference = model.meta.difference(models[0].meta)
        if difference:
            raise DataError(f"{name} does not fit {names[0]}: {difference}; an ensemble needs equal metadata")


def draw_sheet(model: Model, dataset: Dataset, path: str) -> None:
    """Draw evenly spaced images of the dataset, each with its ground truth and the model's prediction."""
    import torch

    from chordate.visualization import side_by_side, to_picture, write_image

    indices = range(0, len(dataset), max(1, len(dataset) // SHEET_IMAGES))[:SHEET_IMAGES]
    originals = [dataset.original(index) for index in indices]
    device = next(model.parameters()).device
    predictions = []
    with torch.inference_mode():
        for index in indices:
            predictions += model.predict(dataset.collate([dataset[0, index]], model.size_divisor).to(device))
    sheet = side_by_side(
        [to_picture(batch.images[0]) for batch in originals],
        [Path(batch.infos[0].path).name for batch in originals],
        [prediction.to("cpu", non_blocking=False) for prediction in predictions],
        [batch.targets for batch in originals],
        model.meta,
    )
    write_image(path, sheet)
