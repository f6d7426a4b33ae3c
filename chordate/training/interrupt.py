"""SIGINT and SIGTERM (Ctrl-C, SLURM's preemption) end training after the current step, so that it can be saved."""

import signal
import threading
from typing import Any, Self


class StopSignals:
    """Within it, the first SIGINT or SIGTERM is only noted in `received`; a second one acts as usual."""

    received: signal.Signals | None = None

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()  # Python lets no other set handlers
        signals = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        self._usual = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *_: Any) -> None:
        while self._usual:
            signal.signal(*self._usual.popitem())

    def _note(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
