"""Read all training and validation data of a config, and report what is missing, broken or suspicious."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_config_arguments, data_root
from chordate.text import printable

if TYPE_CHECKING:
    from chordate.data.data_report import DataReport

# Settings to open a dataset that does not open as configured, to report its other problems too.
TOLERANT: tuple[dict[str, Any], ...] = ({"skip_broken": True, "health": "warn"}, {"skip_broken": True})
EXAMPLE = "chordate check faster-rcnn_r50_fpn_1x_coco --data-root /data/coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="folder to write to (default: work_dirs/<config's name>/check)")


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit status: 0 if training would start and can read all samples, else 1."""
    from rich.console import Console
    from rich.table import Table

    from chordate.config import load_config, naming_files, section
    from chordate.training.run import check_settings
    from chordate.training.settings import TrainSettings
    from chordate.visualization.check_page import write_page

    cfg = load_config(arguments.config, arguments.cfg_options)
    name = Path(cfg.filename).stem
    out = Path(arguments.out or Path("work_dirs") / name / "check")
    out.mkdir(parents=True, exist_ok=True)
    with naming_files(cfg):
        settings = TrainSettings.from_config(section(cfg, "train"))
        check_settings(cfg, settings)
        reports = read_sets(cfg, data_root(arguments), settings.seed)
    console, table = Console(), Table(*reports[0].header())
    for report in reports:
        table.add_row(*map(printable, report.row()))
    console.print(table)
    for line in [f"{report.name}: {line}" for report in reports for line in report.lines()]:
        console.print(printable(line, None), markup=False, highlight=False, soft_wrap=True)
    problems = dict.fromkeys(problem for report in reports for problem in report.problems)
    verdict = "Training would fail." if problems else "Training would start."
    page = write_page(reports, f"{name}: data", verdict, not problems, out)
    print(f"{verdict} {page}", flush=True)
    for problem in problems:
        print(printable(f"chordate check: {problem}", None), file=sys.stderr)
    return 1 if problems else 0


def read_sets(cfg: Any, root: Path, seed: int) -> list[DataReport]:
    """Open the datasets as training does, build the model and the metric, and read all samples."""
    from chordate.config import part_section, section
    from chordate.data.data_report import read_set
    from chordate.errors import ChordateError
    from chordate.evaluation.build_metric import build_metric
    from chordate.models.build import build_model, image_channels

    wiring: dict[str, Any] = {"data_root": root, "channels": image_channels(cfg)}
    reports = [open_set("train_data", section(cfg, "train_data"), training=True, seed=seed, **wiring)]
    train = reports[0].dataset
    if cfg.get("val_data"):
        same = {} if train is None else {"meta": train.meta, "meta_of": "the training data"}
        reports.append(open_set("val_data", section(cfg, "val_data"), training=False, **same, **wiring))
    try:
        model = None if train is None else build_model(cfg, meta=train.meta, pretrained=False)
        if model is not None and reports[-1].dataset not in (None, train):
            build_metric(part_section(cfg, "metric"), reports[-1].dataset).check_model(model)
    except ChordateError as error:
        reports[0].problems.append(str(error))
    for report in reports:
        if report.dataset is not None:
            read_set(report, section(cfg, report.name), training=report is reports[0])
    return reports


def open_set(name: str, data: Any, **wiring: Any) -> DataReport:
    """Open a dataset. If that fails, add the problem to the report, and try again with tolerant settings."""
    from chordate.data.data_report import DataReport
    from chordate.data.loader import build_dataset
    from chordate.data.read_all import collected_warnings
    from chordate.errors import ChordateError

    part = data.get("dataset")
    report = DataReport(name, describe(part))
    for changes in ({}, *(TOLERANT if isinstance(part, Mapping) else ())):
        try:
            with collected_warnings() as lines:
                report.dataset = build_dataset(data | ({"dataset": part | changes} if changes else {}), **wiring)
            report.notes = dict.fromkeys(lines)
            break
        except ChordateError as error:
            report.problems += [] if changes else [str(error)]
    return report


def describe(part: Any) -> str:
    """The settings of a dataset in one line: its type, and the settings that are paths or words."""
    if not isinstance(part, Mapping):
        return part if isinstance(part, str) else type(part).__name__
    words = [f"{name}={value}" for name, value in part.items() if name != "type" and isinstance(value, str)]
    return f"{part.get('type', '')}: {', '.join(words)}" if words else str(part.get("type", ""))
