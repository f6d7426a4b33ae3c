"""Times two functions alternately, so that other load on the machine affects both; and times parts of functions."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def now() -> float:
    """Current time in seconds, after the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def alternate(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median time of each function in seconds, measured alternately after one warm-up round."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for run, kept in zip((first, second), times):
            start = now()
            run()
            if number:
                kept.append(now() - start)
    return statistics.median(times[0]), statistics.median(times[1])


class Clock:
    """Adds up the seconds of named parts; the time of a nested part counts only for the outer part."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside, start = True, now()
        try:
            yield
        finally:
            self._inside = False
            self.seconds[part] += now() - start

    @contextmanager
    def watching(self, parts: Mapping[str, Sequence[tuple[Any, str]]]) -> Iterator[None]:
        """Context manager that times the methods of each part, given as pairs (object, method name)."""

        def watched(part: str, method: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                with self(part):
                    return method(*args, **kwargs)

            return run

        for part, methods in parts.items():
            for owner, name in methods:
                setattr(owner, name, watched(part, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name in (method for methods in parts.values() for method in methods):
                delattr(owner, name)


def gpu_calls(run: Callable[[], Any]) -> tuple[int, int]:
    """Number of kernel launches, and number of host-device synchronizations, in a call of `run`."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
    counts = {event.key: event.count for event in profile.key_averages()}
    return sum(counts.get(name, 0) for name in LAUNCHES), sum(counts.get(name, 0) for name in SYNCS)
