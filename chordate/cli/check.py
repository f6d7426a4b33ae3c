"""Read all training and validation data of a config, and report what is missing, broken or suspicious."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chordate.cli.common import add_config_arguments, data_root
from chordate.text import pluralize, printable

THUMBNAILS = 12  # suspicious images on the page, per dataset
# Settings to open a dataset that does not open as configured, to report its other problems too.
TOLERANT: tuple[dict[str, Any], ...] = ({"skip_broken": True, "health": "warn"}, {"skip_broken": True})
EXAMPLE = "chordate check faster-rcnn_r50_fpn_1x_coco --data-root /data/coco"


@dataclass
class DataReport:
    """What was read of one section, "train_data" or "val_data"; `dataset` is None if it cannot be opened.

    `problems` would end the training; `notes` are its warnings; `unreadable` has one line per image; `sizes` are
    heights and widths in pixels; `counts` are objects per class; `suspicious` are sample indices by kind of suspicion.
    """

    name: str
    dataset: Any = None
    problems: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    counts: Any = None
    suspicious: dict[str, list[int]] = field(default_factory=dict)

    def numbers(self) -> dict[str, str]:
        """The columns of the table; dashes for what is not known."""
        suspicious = set().union(*self.suspicious.values())
        known = {
            "images": f"{len(self.sizes) + len(self.unreadable):,}",
            "unreadable": f"{len(self.unreadable):,}",
            "instances": "–" if self.counts is None else f"{self.counts.sum():,}",
            "classes": "–" if self.counts is None else f"{(self.counts > 0).sum()} of {len(self.counts)}",
            "suspicious": f"{len(suspicious):,}",
        }
        return known if self.dataset is not None else dict.fromkeys(known, "–")


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
    from chordate.visualization.contact_sheet import Group, contact_sheet

    cfg = load_config(arguments.config, arguments.cfg_options)
    out = Path(arguments.out or Path("work_dirs") / Path(cfg.filename).stem / "check")
    out.mkdir(parents=True, exist_ok=True)
    with naming_files(cfg):
        settings = TrainSettings.from_config(section(cfg, "train"))
        check_settings(cfg, settings)
        reports = read_sets(cfg, data_root(arguments), settings.seed)
    console, table, groups = Console(), Table("data", *reports[0].numbers()), []
    for report in reports:
        table.add_row(report.name, *report.numbers().values())
        note = ", ".join(f"{name}: {value}" for name, value in report.numbers().items())
        groups.append(Group(report.name, note, plots(report, out), [*report.problems, *report.notes]))
        if report.dataset is None:
            continue
        groups.append(Group(f"{report.name}: unreadable images", "", [], report.unreadable or ["none"]))
        groups.append(
            Group(
                f"{report.name}: suspicious images", "", thumbnails(report, out), [] if report.suspicious else ["none"]
            )
        )
    console.print(table)
    for line in [f"{report.name}: {note}" for report in reports for note in report.notes]:
        console.print(printable(line, None), markup=False, highlight=False, soft_wrap=True)
    problems = dict.fromkeys(problem for report in reports for problem in report.problems)
    verdict = "Training would fail." if problems else "Training would start."
    (out / "index.html").write_text(contact_sheet(Path(cfg.filename).stem, verdict, groups), encoding="utf-8")
    print(f"{verdict} {out / 'index.html'}", flush=True)
    for problem in problems:
        print(printable(f"chordate check: {problem}", None), file=sys.stderr)
    return 1 if problems else 0


def read_sets(cfg: Any, root: Path, seed: int) -> list[DataReport]:
    """Open the datasets as training does, build the model and the metric, and read all samples."""
    from chordate.config import part_section, section
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
            read_set(report, section(cfg, report.name))
    return reports


def open_set(name: str, data: Any, **wiring: Any) -> DataReport:
    """Open a dataset. If that fails, add the problem to the report, and try again with tolerant settings."""
    from chordate.data.loader import build_dataset
    from chordate.data.read_all import collected_warnings
    from chordate.errors import ChordateError

    report, part = DataReport(name), data.get("dataset")
    for changes in ({}, *(TOLERANT if isinstance(part, Mapping) else ())):
        try:
            with collected_warnings() as lines:
                report.dataset = build_dataset(data | ({"dataset": part | changes} if changes else {}), **wiring)
            report.notes = dict.fromkeys(lines)
            break
        except ChordateError as error:
            report.problems += [] if changes else [str(error)]
    return report


def read_set(report: DataReport, data: Any) -> None:
    """Read all samples of a report's dataset in parallel, with a progress bar."""
    from chordate.data.loader import build_loader
    from chordate.data.read_all import read_all
    from chordate.progress import ProgressBar

    dataset = report.dataset
    report.unreadable += dataset.left_out
    workers = build_loader(dataset, data, training=report.name == "train_data").num_workers
    for reading in ProgressBar().track(read_all(dataset, workers), report.name, len(dataset)):
        report.notes |= dict.fromkeys(reading.warnings)
        if reading.error is not None:
            report.unreadable.append(reading.error)
            continue
        report.sizes.append(reading.size)
        if reading.counts is not None:
            report.counts = reading.counts + (0 if report.counts is None else report.counts)
        for kind in reading.suspicions:
            report.suspicious.setdefault(kind, []).append(reading.index)
    skips = isinstance(part := data.get("dataset"), Mapping) and part.get("skip_broken")
    if report.unreadable and not (skips and report.sizes):
        count = pluralize(len(report.unreadable), "image")
        report.problems.append(f"{report.name}: {count} cannot be read, the first: {report.unreadable[0]}")
    if report.counts is not None:
        counts = ", ".join(f"{printable(name)} {count:,}" for name, count in zip(dataset.classes, report.counts))
        report.notes[f"instances per class: {counts}"] = None
    for kind, indices in report.suspicious.items():
        report.notes[f"{kind}: {pluralize(len(indices), 'image')}"] = None


def plots(report: DataReport, out: Path) -> list[Any]:
    """Plot the objects per class and the image sizes."""
    import numpy as np

    from chordate.visualization.contact_sheet import Thumbnail
    from chordate.visualization.dataset_plots import plot_class_counts, plot_sizes
    from chordate.visualization.style import save

    figures = {"image sizes": plot_sizes(np.array(report.sizes))} if report.sizes else {}
    if report.counts is not None and len(report.counts):
        figures["instances per class"] = plot_class_counts(report.dataset.classes, report.counts)
    drawn = []
    for name, figure in figures.items():
        file = f"{report.name}_{name.replace(' ', '_')}.png"
        save(figure, out / file)
        width, height = (int(side * figure.dpi) for side in figure.get_size_inches())
        drawn.append(Thumbnail(file, width, height, name, ""))
    return drawn


def thumbnails(report: DataReport, out: Path) -> list[Any]:
    """Draw up to twelve suspicious samples with their ground truth, equally many of each kind."""
    from chordate.data.read_all import read_original
    from chordate.visualization import describe_image, draw_batch, write_image
    from chordate.visualization.contact_sheet import Thumbnail

    chosen: dict[int, str] = {}
    for kind, indices in report.suspicious.items():
        for index in indices[: max(THUMBNAILS // len(report.suspicious), 1)]:
            chosen[index] = f"{chosen[index]}, {kind}" if index in chosen else kind
    drawn = []
    for index, kinds in list(chosen.items())[:THUMBNAILS]:
        batch = read_original(report.dataset, index)
        (picture,) = draw_batch(batch, report.dataset.meta)
        file, (height, width) = f"{report.name}_{index:06}.jpg", picture.shape[:2]
        write_image(out / file, picture)
        note = f"{kinds}; {describe_image(batch, 0)}"
        drawn.append(Thumbnail(file, width, height, Path(batch.infos[0].path).name, note))
    return drawn
