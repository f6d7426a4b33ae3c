"""Times two sides that take turns, so that what else the machine does falls on both."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def alternate(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median seconds of each, after one unmeasured round."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for run, kept in zip((first, second), times):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                kept.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])
