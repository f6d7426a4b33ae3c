"""Progress bars on the terminal, drawn by rich."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chordate.distributed import is_main_process

T = TypeVar("T")
REFRESH_SECONDS = 0.1


class ProgressBar:
    """Draws progress bars, one per task, each followed by a status text.

    They are drawn only by rank 0, and only if `console` (None for the standard output) is a terminal. Lines that are
    printed or logged meanwhile appear above the bars.
    """

    def __init__(self, console: Console | None = None):
        console = console or Console()
        self.visible = console.is_terminal and is_main_process()
        self._drawn = 0.0
        texts = [TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[status]}", "<")]
        columns = [texts[0], BarColumn(None), MofNCompleteColumn(), texts[1], TimeElapsedColumn(), texts[2]]
        # auto_refresh=False: rich's refresh thread could hold a lock while the loader forks its workers.
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, expand=True, auto_refresh=False)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """Context manager that shows a bar of `total` steps, of which `done` are already complete. Yields a
        function `update(advance=1, description=…, status=…)`."""
        if not self.visible:
            yield lambda advance=1, **fields: None
            return
        outermost = not self._progress.live.is_started
        if outermost:
            self._progress.start()
        task = self._progress.add_task(description, total=total, completed=done, status="")

        def update(advance: int = 1, **fields: Any) -> None:
            self._progress.update(task, advance=advance, **fields)
            if time.monotonic() - self._drawn > REFRESH_SECONDS:
                self._progress.refresh()
                self._drawn = time.monotonic()

        try:
            yield update
        finally:
            self._progress.refresh()
            self._progress.remove_task(task) if not outermost else self._progress.stop()

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Yield the items, with a bar that shows how many of `total` are done."""
        with self.task(description, total) as update:
            for item in items:
                yield item
                update()
