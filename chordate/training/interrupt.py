"""SIGINT and SIGTERM (Ctrl-C, SLURM's preemption) end training after the current step, so that it can be saved."""

from __future__ import annotations

import signal
import threading
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Within it, the first SIGINT or SIGTERM is only noted in `received`; a second one acts as usual."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._usual: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            self._usual = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        while self._usual:
            signal.signal(*self._usual.popitem())

    def _note(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
