"""Reads every sample of a dataset in parallel, for `chordate check`; samples that cannot be read are reported."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from chordate.data.dataset import Dataset
from chordate.data.loader import Loader, start_worker
from chordate.data.samplers import EvaluationBatches, Key
from chordate.errors import ChordateError
from chordate.structures import Batch, Statistic
from chordate.text import one_line

SAMPLES = 16  # samples that a worker reads at once


@dataclass
class Reading:
    """The result of reading one sample, or the reason why it could not be read (`error`).

    `warnings` were logged during reading; `path` is that of the image file; `size` is the image's height and width in
    pixels; see `Targets` for the other fields.
    """

    index: int
    warnings: list[str]
    error: str | None = None
    path: str = ""
    size: tuple[int, int] = (0, 0)
    counts: Any = None
    statistics: dict[str, Statistic] = field(default_factory=dict)
    suspicions: tuple[str, ...] = ()


class _Readings(torch.utils.data.Dataset[Reading]):
    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Reading:
        with collected_warnings() as lines:
            reading = Reading(key[1], lines)
            try:
                self._fill(reading)
            except ChordateError as error:
                reading.error = str(error)
            except Exception as error:  # a bug in a custom dataset must not end the reading either
                reading.error = f"sample {key[1]}: {type(error).__name__}: {one_line(error)}"
        return reading

    def _fill(self, reading: Reading) -> None:
        batch = read_original(self.dataset, reading.index)
        info = batch.infos[0]
        reading.path, reading.size = info.path, (info.height, info.width)
        reading.statistics = self.dataset.sample_statistics(reading.index)
        if batch.targets is not None:
            counts = batch.targets.class_counts(len(self.dataset.classes))
            reading.counts = None if counts is None else counts.numpy()
            reading.statistics = batch.targets.statistics(self.dataset.meta) | reading.statistics
            reading.suspicions = batch.targets.suspicions(0)


def read_original(dataset: Dataset, index: int) -> Batch:
    """A batch of one sample, without transforms. A broken sample raises an error, even with `skip_broken`.

    If the dataset overrides `__getitem__` instead of `read`, the batch has the sample that `__getitem__` returns, which
    may apply transforms and skip broken samples."""
    if type(dataset).read is Dataset.read:  # the dataset overrides `__getitem__` instead of `read`
        return dataset.collate([dataset[0, index]])
    return dataset.collate([dataset.finish(dataset.read(index))])


def read_all(dataset: Dataset, workers: int) -> Iterator[Reading]:
    """Read each sample once, in order, with `workers` loader processes."""
    loader: Any = Loader(
        _Readings(dataset),
        batch_sampler=EvaluationBatches(np.zeros(len(dataset)), SAMPLES),
        collate_fn=list,
        num_workers=workers,
        worker_init_fn=start_worker,
    )
    for readings in loader:
        yield from readings


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Context manager that yields a list to which the warnings of the logger "chordate" are appended."""
    logger, collector = logging.getLogger("chordate"), _Collector()
    logger.addHandler(collector)
    try:
        yield collector.lines
    finally:
        logger.removeHandler(collector)
