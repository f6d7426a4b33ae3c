"""Handles SIGINT (Ctrl-C), SIGTERM (preemption), SIGHUP (lost terminal): ends a command, or lets a run save first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self


def terminations() -> list[signal.Signals]:
    """The signals that ask a process to end: SIGTERM, and SIGHUP unless it is ignored (`nohup`)."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, hangup]


def in_main_thread() -> bool:
    """Whether this is the main thread, the only one that may set signal handlers."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Context manager in which SIGTERM and SIGHUP end the command as Ctrl-C does, so that it can stop its workers."""

    def interrupt(number: int, _: Any) -> NoReturn:
        raise KeyboardInterrupt(number)

    numbers = terminations() if in_main_thread() else []
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """Context manager that records SIGINT, SIGTERM or SIGHUP in `received`.

    The first signal does not end the process, so that the run can be saved. After it, Ctrl-C ends the process; further
    SIGTERMs and SIGHUPs do not, since srun and torchrun may both deliver the same signal. SIGHUP stays ignored under
    `nohup`.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, *terminations()] if in_main_thread() else []
        self._handlers = {number: signal.signal(number, self._record) for number in numbers}
        return self

    def __exit__(self, *_: Any) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _record(self, number: int, _: Any) -> None:
        self.received = self.received or signal.Signals(number)
        if signal.SIGINT in self._handlers:
            signal.signal(signal.SIGINT, self._handlers.pop(signal.SIGINT))
