"""Logging of a run to the terminal and to a file, by Python's `logging`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from chordate.distributed import is_main_process
from chordate.log_once import no_repeated_warnings
from chordate.text import PrintableFormatter

logger = logging.getLogger("chordate")


class RunHandler(logging.StreamHandler[TextIO]):
    """Writes log lines to the current `sys.stdout`, so that they appear above a live progress bar."""

    def __init__(self, work_dir: Path, folder: Path):
        logging.Handler.__init__(self)  # not StreamHandler.__init__, which would store the current stream
        self.work_dir, self.folder = work_dir, folder

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


class LogFile(logging.FileHandler):
    """Writes log lines to a file. If writing fails, e.g. because the disk is full, warns once and stops writing."""

    is_full = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.is_full:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.is_full = True
        logger.warning(f"{self.baseFilename}: cannot be written ({error.strerror}); logging goes on without this file")

    def close(self) -> None:
        with suppress(OSError):  # closing tries again to write the lines that could not be written
            super().close()


@contextmanager
def run_log(work_dir: str | Path) -> Iterator[Path]:
    """Context manager that sends the log of a run to the terminal and to `<work_dir>/<start time>/train.log`.

    Rank 0 writes the file; the other ranks only print errors. Yields the file's folder. A nested `run_log` with
    an equal `work_dir` adds no file and yields the folder of the outer `run_log`. If an error is raised before another
    file is written to the folder, the folder is removed, and so are parents of it that `run_log` created.
    """
    work_dir, level = Path(work_dir), logger.level
    for handler in logger.handlers:
        if isinstance(handler, RunHandler) and handler.work_dir == work_dir:
            yield handler.folder
            return
    folder = work_dir / time.strftime("%Y%m%d_%H%M%S")
    created: list[Path] = []
    handlers: list[logging.Handler] = [RunHandler(work_dir, folder)]
    if is_main_process():
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(LogFile(folder / "train.log"))
    logger.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    for handler in handlers:
        handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    try:
        with no_repeated_warnings():
            yield folder
        created = []
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        _remove_unused(created)


def _remove_unused(created: Sequence[Path]) -> None:
    """Remove the log folder `created[0]` if it contains only the log, and then its empty parents in `created`."""
    with suppress(OSError):  # a folder is not empty, or no longer exists
        if created and [path.name for path in created[0].iterdir()] == ["train.log"]:
            (created[0] / "train.log").unlink()
            for path in created:
                path.rmdir()
