"""DataReport: the results of `chordate check` for one dataset, or the reason why it cannot be opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chordate.data.dataset import Dataset
from chordate.data.loader import build_loader
from chordate.data.read_all import Reading, read_all
from chordate.progress import ProgressBar
from chordate.structures import Counts, Statistic, Targets
from chordate.structures.statistics import merge_statistics
from chordate.text import pluralize, printable

LISTED = 100  # maximum number of classes in one line on the terminal
DASH = "–"


@dataclass
class DataReport:
    """Results of reading one section, such as "train_data"; `dataset` is None if it cannot be opened.

    Attributes:
        name: name of the section.
        source: the settings of the dataset, in one line.
        dataset: the opened dataset.
        problems: errors that would stop training.
        notes: warnings that training would log: what is left out or changed, and why.
        unreadable: one line per image that cannot be read.
        readable: indices of the samples that can be read.
        sizes: height and width of each image in pixels, by path.
        counts, images: `[classes]`, numbers of objects of each class, and of images with an object of the class; None
            if the task has no classes.
        parts: dict from the title of a statistic to its values, one Statistic per sample.
        suspicious: sample indices by possible error, see `Targets.suspicions`.
    """

    name: str
    source: str = ""
    dataset: Dataset | None = None
    problems: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    unreadable: dict[str, None] = field(default_factory=dict)
    readable: list[int] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None
    images: NDArray[np.int64] | None = None
    parts: dict[str, list[Statistic]] = field(default_factory=dict)
    suspicious: dict[str, list[int]] = field(default_factory=dict)

    @property
    def counted(self) -> str:
        """Name of the objects that `counts` counts, such as "instances"."""
        return ((self.dataset and self.dataset.target_type) or Targets).counted

    def header(self) -> list[str]:
        """The column names of the overview table."""
        counted = "labeled" if self.counted == "images" else self.counted
        return ["data", "images", "unreadable", counted, "classes", "suspicious"]

    def row(self) -> list[str]:
        """This dataset's row of the overview table; dashes for unknown values."""
        if self.dataset is None:
            return [self.name, *[DASH] * 5]
        counts = self.counts
        return [
            self.name,
            f"{len(self.sizes) + len(self.unreadable):,}",
            f"{len(self.unreadable):,}",
            DASH if counts is None else f"{counts.sum():,}",
            DASH if counts is None else f"{(counts > 0).sum()} of {len(counts)}",
            f"{len(set().union(*self.suspicious.values())):,}",
        ]

    def add(self, reading: Reading) -> None:
        """Add one sample."""
        self.notes |= dict.fromkeys(reading.warnings)
        if reading.error is not None:
            self.unreadable[reading.error] = None
            return
        self.readable.append(reading.index)
        self.sizes[reading.path] = reading.size
        if reading.counts is not None:
            self.counts = reading.counts + (0 if self.counts is None else self.counts)
            self.images = (reading.counts > 0) + (0 if self.images is None else self.images)
        for title, statistic in reading.statistics.items():
            self.parts.setdefault(title, []).append(statistic)
        for kind in reading.suspicions:
            self.suspicious.setdefault(kind, []).append(reading.index)

    def class_counts(self) -> Counts | None:
        """The counts by class name, in the order of the labels; None without classes."""
        if self.counts is None or self.dataset is None or not len(self.counts):
            return None
        rows = {printable(name): (count,) for name, count in zip(self.dataset.classes, self.counts.tolist())}
        return Counts((self.counted,), rows)

    def statistics(self) -> dict[str, Statistic]:
        """The merged statistics of all samples, by title."""
        return {title: merge_statistics(parts) for title, parts in self.parts.items()}

    def most_frequent_sizes(self) -> list[tuple[tuple[int, int], int]]:
        """Each height and width with its number of images, the most frequent first."""
        return Counter(self.sizes.values()).most_common()

    def lines(self) -> list[str]:
        """Lines for the terminal: notes, counts per class, statistics, image sizes, counts of suspicious samples."""
        lines = list(self.notes)
        counts = self.class_counts()
        if counts is not None:
            listed = Counts(counts.columns, dict(list(counts.rows.items())[:LISTED]))
            rest = " …" if len(counts.rows) > LISTED else ""
            words = [f"{name} {row[0]:,}" for name, row in listed.rows.items()]
            text = counts.summary() if self.counted == "pixels" else ", ".join(words) + rest
            lines.append(f"{self.counted} per class: {text}")
        lines += [f"{title}: {statistic.summary()}" for title, statistic in self.statistics().items()]
        if self.sizes:
            (height, width), count = self.most_frequent_sizes()[0]
            sizes = pluralize(len(set(self.sizes.values())), "size")
            lines.append(f"image sizes: {sizes}, the most frequent is {width}×{height} ({pluralize(count, 'image')})")
        return lines + [f"{kind}: {pluralize(len(indices), 'sample')}" for kind, indices in self.suspicious.items()]


def read_set(report: DataReport, data: Mapping[str, Any], training: bool) -> None:
    """Read all samples of a report's dataset in parallel, with a progress bar.

    Args:
        report: the report of an opened dataset; filled in place.
        data: the section of the dataset.
        training: whether the section is `train_data`.
    """
    dataset = report.dataset
    assert dataset is not None
    report.unreadable |= dict.fromkeys(dataset.left_out)
    workers = build_loader(dataset, data, training=training).num_workers
    for reading in ProgressBar().track(read_all(dataset, workers), report.name, len(dataset)):
        report.add(reading)
    skips = isinstance(part := data.get("dataset"), Mapping) and part.get("skip_broken")
    if report.unreadable and not (skips and report.sizes):
        count, first = pluralize(len(report.unreadable), "image"), next(iter(report.unreadable))
        report.problems.append(f"{report.name}: {count} cannot be read, the first: {first}")
