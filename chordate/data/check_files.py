"""Checks the files of all samples of a validation set in parallel, before training starts."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from chordate.data.dataset import Dataset
from chordate.distributed import all_gather_object, is_main_process, rank, world_size
from chordate.errors import BrokenFile, DataError
from chordate.progress import ProgressBar
from chordate.text import pluralize, printable

log = logging.getLogger("chordate")


class FirstError(NamedTuple):
    """The error with the lowest sample index, and the number of samples with an error, on one rank or on all ranks."""

    sample: int
    message: str
    samples: int


def check_all_files(dataset: Dataset, name: str) -> None:
    """Check the files of all samples with `dataset.check_files`, divided among the ranks. All ranks must call this.

    Args:
        dataset: the dataset.
        name: name of the dataset's section in the config, "val_data", for messages.

    Raises:
        DataError: samples cannot be read; raised on all ranks. With `dataset.skip_broken`, broken files are only
            logged, unless all are broken.
    """
    own = range(rank(), len(dataset), world_size())
    if type(dataset).check_files is Dataset.check_files:
        return
    broken: dict[int, DataError] = {}
    errors: dict[int, DataError] = {}

    def check(index: int) -> None:
        try:
            dataset.check_files(index)
        except BrokenFile as error:
            (broken if dataset.skip_broken else errors)[index] = error
        except DataError as error:
            errors[index] = error

    pool = ThreadPoolExecutor()
    try:
        for _ in ProgressBar().track(pool.map(check, own), f"checking {name}", len(own)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    total = pluralize(len(dataset), "sample")
    first = _first(errors)
    if first is not None:
        raise DataError(
            first.message if first.samples == 1 else f"{first.message} ({first.samples:,} of {total} cannot be read)"
        )
    first = _first(broken)
    if first is None:
        return
    if first.samples == len(dataset):
        raise DataError(f"{name}: all files are broken, the first: {first.message}")
    if is_main_process():
        message = f"{name}: {first.samples:,} of {total} are broken and will be skipped, the first: {first.message}"
        log.warning(printable(message, None))


def _first(errors: dict[int, DataError]) -> FirstError | None:
    """The error with the lowest index on any rank, with the number of errors on all ranks; None if there are none."""
    own = FirstError(min(errors), str(errors[min(errors)]), len(errors)) if errors else None
    gathered = [first for first in all_gather_object(own) if first is not None]
    return min(gathered)._replace(samples=sum(other.samples for other in gathered)) if gathered else None
