"""Read all data of a config or of a folder, and report what is missing, broken or suspicious."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chordate.cli.common import add_config_arguments, data_root
from chordate.text import printable

if TYPE_CHECKING:
    from chordate.data.data_report import DataReport
    from chordate.data.recognition import FoundSet
    from chordate.training.settings import TrainSettings

# If a dataset cannot be opened as configured, these settings are tried in turn, to report its other problems too.
TOLERANT: tuple[dict[str, Any], ...] = ({"skip_broken": True, "health": "warn"}, {"skip_broken": True})
WORKERS = 16  # loader processes that read data without a config, at most one per core
EXAMPLE = "chordate check faster-rcnn_r50_fpn_1x_coco --data-root /data/coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(
        parser,
        "a packaged config's name, a config file, or data: a folder, a zip, a COCO .json or a YOLO data.yaml, whose "
        "format is recognized",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder to write to (default: work_dirs/<name>/check; for data, check_data)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit status: 0 if training would start and can read all samples, else 1."""
    from chordate.visualization.check_page import write_page

    if is_data(arguments):
        path = Path(arguments.config).resolve()
        name = path.stem if path.is_file() else path.name
        out = out_folder(arguments, name, "check_data")  # "check" is the page of a config of this name
        source, reports = read_data(Path(arguments.config))
    else:
        name, reports = read_config(arguments)
        source, out = f"the data of {name}", out_folder(arguments, name, "check")
    print_reports(reports)
    problems = dict.fromkeys(problem for report in reports for problem in report.problems)
    verdict = "Training would fail." if problems else "Training would start."
    page = write_page(reports, name, source, verdict, not problems, out)
    print(f"{verdict} {page}", flush=True)
    for problem in problems:
        print(printable(f"chordate check: {problem}", None), file=sys.stderr)
    return 1 if problems else 0


def out_folder(arguments: argparse.Namespace, name: str, page: str) -> Path:
    out = Path(arguments.out or Path("work_dirs") / name / page)
    out.mkdir(parents=True, exist_ok=True)
    return out


def print_reports(reports: Sequence[DataReport]) -> None:
    from rich.console import Console
    from rich.table import Table

    console, table = Console(), Table()
    for name in reports[0].header():
        table.add_column(name, overflow="fold")
    for report in reports:
        table.add_row(*map(printable, report.row()))
    console.print(table)
    for line in [f"{report.name}: {line}" for report in reports for line in report.lines()]:
        console.print(printable(line, None), markup=False, highlight=False, soft_wrap=True)


def is_data(arguments: argparse.Namespace) -> bool:
    """Whether the argument is data instead of a config.

    Raises:
        ConfigError: the argument is data, but options for configs are given.
    """
    from chordate.config import packaged_configs
    from chordate.data.recognize_annotations import is_annotation_file
    from chordate.errors import ConfigError

    path = Path(arguments.config)
    if arguments.config in packaged_configs():
        return False
    data = path.is_dir() or path.suffix.lower() == ".zip" or is_annotation_file(path)
    for option, value in (("--data-root", arguments.data_root), ("--cfg-options", arguments.cfg_options)):
        if data and value:
            raise ConfigError(
                f"{option} belongs to a config, but {path} is data; leave the option out, or name a config"
            )
    return data


def read_data(path: Path) -> tuple[str, list[DataReport]]:
    """Recognize the format of the data, open each of its sets as training does, and read all samples.

    Returns:
        A description of the recognized format, and a report of each set.
    """
    from chordate.data.data_report import read_set
    from chordate.data.recognition import is_training, recognize
    from chordate.data.recognize_folders import RECOGNIZERS

    recognition = recognize(path, RECOGNIZERS)
    source = printable(f"{path}: taken for {recognition.describe()}", None)
    print(source, flush=True)
    reports: list[DataReport] = []
    first: dict[tuple[str, ...], DataReport] = {}  # key: type of the dataset, and names of its optional settings
    for part in recognition.sets:
        training = is_training(part.name, len(recognition.sets) == 1)
        wiring: dict[str, Any] = {"data_root": recognition.root, "training": training}
        report = open_found(part, **wiring)
        earlier = first.setdefault((str(part.settings["type"]), *part.optional), report)
        if report.dataset is not None and earlier.dataset is not None and earlier is not report:
            same = open_set(part.name, section_of(part.settings), **wiring, **meta_of(earlier))
            report.problems += same.problems
        reports.append(report)
        if report.dataset is not None:
            read_set(report, section_of(part.settings), training=training)
    return source, reports


def open_found(part: FoundSet, **wiring: Any) -> DataReport:
    """Open a set with masks and keypoints if the files have them. If this fails, open it without them and note why."""
    report = open_set(part.name, section_of({**part.settings, **part.optional}), **wiring)
    if not report.problems or not part.optional:
        return report
    plain = open_set(part.name, section_of(part.settings), **wiring)
    if not plain.problems:
        options = ", ".join(f"{name}=True" for name in part.optional)
        plain.notes |= {f"cannot be opened with {options}: {problem}": None for problem in report.problems}
    return plain if report.dataset is None or not plain.problems else report


def section_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {"dataset": dict(dataset), "workers": WORKERS}


def meta_of(report: DataReport) -> dict[str, Any]:
    """Arguments of `build_dataset` that require the other sets to have the classes of this report's set."""
    return {} if report.dataset is None else {"meta": report.dataset.meta, "meta_of": f"the set {report.name}"}


def read_config(arguments: argparse.Namespace) -> tuple[str, list[DataReport]]:
    """The config's name, and a report of each of its datasets."""
    from chordate.config import load_config, naming_files, section
    from chordate.training.run import check_settings
    from chordate.training.settings import TrainSettings

    cfg = load_config(arguments.config, arguments.cfg_options)
    with naming_files(cfg):
        settings = TrainSettings.from_config(section(cfg, "train"))
        check_settings(cfg, settings)
        return Path(cfg.filename).stem, read_sets(cfg, data_root(arguments), settings)


def read_sets(cfg: Any, root: Path, settings: TrainSettings) -> list[DataReport]:
    """Open the datasets as training does, try the model and the metric on one sample, and read all samples."""
    from chordate.config import section
    from chordate.data.data_report import read_set
    from chordate.models.build import image_channels

    wiring: dict[str, Any] = {"data_root": root, "channels": image_channels(cfg)}
    reports = [open_set("train_data", section(cfg, "train_data"), training=True, seed=settings.seed, **wiring)]
    train = reports[0].dataset
    if cfg.get("val_data"):
        same = meta_of(reports[0]) | ({} if train is None else {"meta_of": "the training data"})
        reports.append(open_set("val_data", section(cfg, "val_data"), training=False, **same, **wiring))
    if train is not None:
        try_model(cfg, settings, reports)
    for report in reports:
        if report.dataset is not None:
            read_set(report, section(cfg, report.name), training=report is reports[0])
    return reports


def try_model(cfg: Any, settings: TrainSettings, reports: Sequence[DataReport]) -> None:
    """Compute the losses of one training sample, and evaluate one validation sample, if there is validation data.

    Errors are added to the problems of the data with which they occur.

    Args:
        reports: the reports of the training data, which must be open, and of the validation data, if there are any.
    """
    from chordate import launch
    from chordate.config import list_section, part_section, section
    from chordate.data.loader import build_loader
    from chordate.errors import ChordateError
    from chordate.evaluation.build_metric import build_metric
    from chordate.models.build import build_model
    from chordate.registry import CALLBACKS
    from chordate.training.callbacks import check_monitored
    from chordate.training.evaluation_loop import evaluation_mode, to_device, trial_evaluation

    device, report = launch.device(), reports[0]
    assert report.dataset is not None
    try:
        model = build_model(cfg, meta=report.dataset.meta, pretrained=False).to(device)
        train_data, divisor = section(cfg, "train_data"), model.size_divisor
        first = build_loader(report.dataset, train_data, training=True, size_divisor=divisor).first_batch()
        with evaluation_mode(model):
            model.loss(to_device(first, device))
        report = reports[-1]
        if len(reports) > 1 and report.dataset is not None:
            metric = build_metric(part_section(cfg, "metric"), report.dataset)
            metric.check_model(model)
            loader = build_loader(report.dataset, section(cfg, "val_data"), training=False, size_divisor=divisor)
            callbacks = [CALLBACKS.build(callback) for callback in list_section(cfg, "callbacks")]
            check_monitored(callbacks, settings.save_best, trial_evaluation(model, loader, metric, device))
    except ChordateError as error:
        report.problems.append(str(error))


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
    """The settings of a dataset in one line: its type, and its settings that are strings or booleans."""
    if not isinstance(part, Mapping):
        return part if isinstance(part, str) else type(part).__name__
    plain = {name: value for name, value in part.items() if name != "type" and isinstance(value, str | bool)}
    words = [f"{name}={value}" for name, value in plain.items()]
    return f"{part.get('type', '')}: {', '.join(words)}" if words else str(part.get("type", ""))
