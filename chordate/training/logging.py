"""Logging of a run to the terminal and to a file, by Python's `logging`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def run_log(work_dir: str | Path) -> Iterator[Path]:
    """Context manager that sends the log of a run to the terminal and to `<work_dir>/<start time>/train.log`.

    The first rank writes the file; the other ranks only print errors. Yields the file's folder. A nested `run_log` with
    an equal `work_dir` adds no file and yields the folder of the outer `run_log`.
    """
    work_dir, level = Path(work_dir), logger.level
    for handler in logger.handlers:
        if isinstance(handler, RunHandler) and handler.work_dir == work_dir:
            yield handler.folder
            return
    folder = work_dir / time.strftime("%Y%m%d_%H%M%S")
    handlers: list[logging.Handler] = [RunHandler(work_dir, folder)]
    if is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(folder / "train.log"))
    logger.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    for handler in handlers:
        handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    try:
        with no_repeated_warnings():
            yield folder
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
