"""A progress bar on a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


REFRESH_SECONDS = 0.1


class ProgressBar:
    """One bar a task, and beside it what is worth knowing; drawn by the first rank, and only on a terminal.

    While it is up, what is printed or logged goes above it.

    Args:
        console: where to draw; None is the standard output.
    """

    def __init__(self, console: Console | None = None):
        console = console or Console()
        self.visible = console.is_terminal and is_main_process()
        self._drawn = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            auto_refresh=False,  # its thread could hold a lock just when the loader forks its workers
        )

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """A bar of `total` steps, of which `done` are done; yields `update(advance=1, description=…, status=…)`."""
        if not self.visible:
            yield lambda advance=1, **shown: None
            return
        outermost = not self._progress.live.is_started
        if outermost:
            self._progress.start()
        task = self._progress.add_task(description, total=total, completed=done, status="")

        def update(advance: int = 1, **shown: Any) -> None:
            self._progress.update(task, advance=advance, **shown)
            if time.monotonic() - self._drawn > REFRESH_SECONDS:
                self._progress.refresh()
                self._drawn = time.monotonic()

        try:
            yield update
        finally:
            self._progress.refresh()
            self._progress.remove_task(task) if not outermost else self._progress.stop()

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """The items, with a bar that shows how many of `total` were worked on."""
        with self.task(description, total) as update:
            for item in items:
                yield item
                update()


class CurrentOutput:
    """A text stream that writes to whatever `sys.stdout` is now, so that log lines go above a live bar."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()
