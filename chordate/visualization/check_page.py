"""The page of `chordate check`: an overview, and for each dataset its problems, plots, tables, examples and suspicious
images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from chordate.data.data_report import DataReport
from chordate.data.read_all import read_original
from chordate.errors import ConfigError
from chordate.structures import Counts, Values
from chordate.structures.statistics import format_percent
from chordate.text import file_stem
from chordate.visualization.batch_drawing import describe_image, draw_batch
from chordate.visualization.canvas import write_image
from chordate.visualization.contact_sheet import Group, Table, Thumbnail, contact_sheet, remove_earlier_sheet
from chordate.visualization.dataset_plots import plot_class_counts, plot_sizes, plot_values
from chordate.visualization.style import save

THUMBNAILS = 12  # maximum number of suspicious images drawn per dataset
EXAMPLES = 6  # maximum number of other images drawn per dataset, with their ground truth
SIZES = 15  # maximum number of image sizes in the table
WIDE = 800  # pixels; wider plots take a whole row
CAPTION = 8  # maximum number of classes in the caption of the class plot


def write_page(reports: Sequence[DataReport], title: str, source: str, verdict: str, good: bool, out: Path) -> Path:
    """Write the page and its pictures; those of an earlier check in the same folder are deleted.

    Args:
        reports: one per dataset; the header of the overview is from the first report.
        title: heading of the page.
        source: where the data come from, in one line.
        verdict: whether training would start, in one sentence.
        good: whether training would start.
        out: the folder to write to.

    Returns:
        The path of the page.
    """
    remove_earlier_sheet(out)
    overview = Table("", reports[0].header(), [report.row() for report in reports])
    groups = [Group("Overview", source, tables=[overview])]
    for report in reports:
        tables = [] if report.dataset is None else _tables(report)
        pictures = _plots(report, out)
        groups.append(Group(report.name, report.source, pictures, list(report.notes), report.problems, tables))
        if report.dataset is None:
            continue
        groups.append(_example_group(report, out))
        for kind, lines, drawn in (
            ("unreadable", list(report.unreadable), []),
            ("suspicious", _suspicions(report), _draw(report, out, _suspicious(report))),
        ):
            groups.append(Group(f"{report.name}: {kind} images", "" if lines else "none", drawn, lines))
    page = out / "index.html"
    page.write_text(contact_sheet(title, verdict, groups, good), encoding="utf-8")
    return page


def _suspicions(report: DataReport) -> list[str]:
    return [f"{kind}: {len(indices):,}" for kind, indices in report.suspicious.items()]


def _plots(report: DataReport, out: Path) -> list[Thumbnail]:
    """Plot the image sizes, the distributions and the objects per class."""
    figures: dict[str, tuple[Figure, str]] = {}
    if report.sizes:
        figures["image sizes"] = plot_sizes(np.array(list(report.sizes.values()))), ""
    for title, statistic in report.statistics().items():
        if isinstance(statistic, Values) and len(statistic.values):
            figures[title] = plot_values(statistic), statistic.summary()
    counts = report.class_counts()
    if counts is not None:
        names, numbers = list(counts.rows), np.array([row[0] for row in counts.rows.values()])
        first = [f"{names[label]} {numbers[label]:,}" for label in np.argsort(-numbers, kind="stable")[:CAPTION]]
        caption = ", ".join(first) + (" …" if len(names) > CAPTION else "")
        figures[f"{report.counted} per class"] = plot_class_counts(names, numbers), caption
    drawn = []
    for title, (figure, caption) in figures.items():
        file = _file_name(report, title.partition(" (")[0], ".png")
        save(figure, out / file)
        width, height = (int(side * figure.dpi) for side in figure.get_size_inches())
        drawn.append(Thumbnail(file, width, height, title, caption, wide=width > WIDE))
    return drawn


def _file_name(report: DataReport, title: str, suffix: str) -> str:
    return file_stem(f"{report.name}_{title}").replace(" ", "_") + suffix


def _tables(report: DataReport) -> list[Table]:
    """Tables of the classes, the statistics and the image sizes."""
    tables, distributions = [], []
    counts = report.class_counts()
    if counts is not None and report.images is not None:
        images = {name: f"{count:,}" for name, count in zip(counts.rows, report.images.tolist())}
        one_each = (report.images == report.counts).all()  # no image has two objects of one class, as in classification
        tables.append(_counts_table(f"{report.counted} per class", "class", counts, None if one_each else images))
    for title, statistic in report.statistics().items():
        if isinstance(statistic, Counts):
            tables.append(_counts_table(title, "", statistic))
        elif len(statistic.values):
            name = f"{title}, {statistic.unit}" if statistic.unit else title
            distributions.append([name, *statistic.percentiles()])
    if distributions:
        tables.append(Table("distributions", ["", "minimum", "5 %", "median", "95 %", "maximum"], distributions))
    sizes = report.most_frequent_sizes()
    if sizes:
        most = sizes[0][1]
        size_rows = [[f"{width}×{height}", f"{count:,}"] for (height, width), count in sizes[:SIZES]]
        title = f"the {SIZES} most frequent of {len(sizes):,} image sizes" if len(sizes) > SIZES else "images per size"
        bars = [count / most for _, count in sizes[:SIZES]]
        tables.append(Table(title, ["width×height", "images"], size_rows, bars))
    return tables


def _counts_table(title: str, name: str, counts: Counts, images: dict[str, str] | None = None) -> Table:
    """A table of counts, the largest first, with bars; `images` maps each name to its cell in the column "images"."""
    ordered = Counts.merge([counts]).rows
    sums = np.array([sum(row) for row in ordered.values()]).clip(0)
    total, most = max(sums.sum(), 1), max(sums.max(initial=0), 1)
    one = len(counts.columns) == 1
    header = [name, *counts.columns, *(["share"] if one else []), *(["images"] if images else [])]
    rows = []
    for label, row in ordered.items():
        share = [format_percent(row[0] / total)] if one else []
        rows.append([label, *(f"{count:,}" for count in row), *share, *([images[label]] if images else [])])
    bars = (sums / most).tolist() if one else [row[0] / max(sum(row), 1) for row in ordered.values()]
    return Table(title, header, rows, bars)


def _example_group(report: DataReport, out: Path) -> Group:
    """A few samples that are evenly spread over those that are neither unreadable nor suspicious."""
    assert report.dataset is not None
    name, targets = f"{report.name}: examples", report.dataset.target_type
    usual = sorted(set(report.readable).difference(*report.suspicious.values()))
    chosen = [usual[number * len(usual) // EXAMPLES] for number in range(EXAMPLES)] if usual else []
    drawn = _draw(report, out, dict.fromkeys(chosen, ""))
    return Group(name, (targets.legend if targets is not None else "") if drawn else "none", drawn)


def _suspicious(report: DataReport) -> dict[int, str]:
    """Indices of up to twelve suspicious samples, with their possible errors. Each error has the same limit."""
    chosen: dict[int, str] = {}
    for kind, indices in report.suspicious.items():
        for index in indices[: max(THUMBNAILS // len(report.suspicious), 1)]:
            chosen[index] = f"{chosen[index]}, {kind}" if index in chosen else kind
    return dict(list(chosen.items())[:THUMBNAILS])


def _draw(report: DataReport, out: Path, notes: Mapping[int, str]) -> list[Thumbnail]:
    """Draw samples with their ground truth, each with a note, which may be empty. A custom type of targets without a
    drawing function has no pictures."""
    assert report.dataset is not None
    drawn = []
    for index, note in notes.items():
        batch = read_original(report.dataset, index)
        try:
            (picture,) = draw_batch(batch, report.dataset.meta)
        except ConfigError:
            return []
        file, (height, width) = _file_name(report, f"{index:06}", ".jpg"), picture.shape[:2]
        write_image(out / file, picture)
        caption = f"{note}; {describe_image(batch, 0)}" if note else describe_image(batch, 0)
        drawn.append(Thumbnail(file, width, height, Path(batch.infos[0].path).name, caption))
    return drawn
