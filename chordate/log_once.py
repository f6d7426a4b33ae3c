"""Drops warnings that a run has already logged, or that do not concern it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class RepeatFilter(logging.Filter):
    """Log filter that drops a warning if the same text was logged before."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_repeated = record.levelno == logging.WARNING and message in self._logged
        self._logged.add(message)
        return not is_repeated


@contextmanager
def no_repeated_warnings() -> Iterator[None]:
    """Context manager in which the logger "chordate" logs each distinct warning only once."""
    logger, repeat_filter = logging.getLogger("chordate"), RepeatFilter()
    logger.addFilter(repeat_filter)
    try:
        yield
    finally:
        logger.removeFilter(repeat_filter)


@contextmanager
def no_warnings() -> Iterator[None]:
    """Context manager in which Python's warnings, and messages of the logger "chordate" below ERROR, are not shown."""

    logger = logging.getLogger("chordate")
    level = logger.level
    logger.setLevel(logging.ERROR)  # a filter would run after `RepeatFilter`, which would record the text as logged
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
