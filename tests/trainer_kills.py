"""Training runs in separate processes that are killed at chosen moments; used by test_resume.py."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trainer_toy import ToyMetric, toy_loader, toy_trainer

from chordate.training.callbacks import Callback
from chordate.training.trainer import Trainer

COSINE = {"type": "cosine", "warmup_iters": 4}
SETTINGS: dict[str, Any] = {
    "schedule": COSINE, "epochs": 4, "accumulate": 4, "clip_norm": 0.1, "ema": 0.9, "save_best": "toy_AP",
    "save_every_iterations": 3,
}  # fmt: skip


class Signal(Callback):
    """A callback that sends a signal to its process (`to_all`: and its workers) after an iteration (counted from 1)."""

    def __init__(self, iteration: int, number: int = signal.SIGKILL, to_all: bool = False):
        self.iteration, self.number = iteration, number
        self.send = os.killpg if to_all else os.kill
        if to_all:
            os.setsid()  # a process group without the tests, for this process and its workers

    def on_step_end(self, trainer: Trainer, losses: Any) -> None:
        if trainer.iteration == self.iteration:
            self.send(os.getpid(), self.number)


class Draws(ToyMetric):
    """A metric that draws random numbers, as an evaluation may, and kills its process in the `kill`-th evaluation."""

    def __init__(self, kill: int = 0):
        super().__init__()
        self.kill = kill

    def compute(self) -> dict[str, float]:
        torch.rand(3)
        np.random.rand(3)
        self.kill -= 1
        if self.kill == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute()


def kill_when(module: Any, name: str, count: int, *, first: bool, about: str) -> None:
    """Kill the process before (`first`) or after the `count`-th call of `module.name` with `about` in an argument."""
    original, calls = getattr(module, name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        if about in "".join(str(argument) for argument in arguments):
            calls[0] += 1
        if first and calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, call)


def write_half(count: int) -> None:
    """Kill the process in the middle of writing the `count`-th checkpoint."""
    original, calls = torch.save, [0]

    def save(state: Any, file: Any) -> None:
        calls[0] += 1
        original(state, file)
        if calls[0] == count:
            file.flush()
            file.truncate(file.tell() // 2)
            os.fsync(file.fileno())
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save


def train(work_dir: Path, workers: int = 0, kill: tuple[str, int] | None = None, **options: Any) -> None:
    """Train a `ToyModel`; with `kill=(point, n)`, the process is killed when it reaches the point for the n-th time.

    If the point is the name of a signal, that signal is sent after iteration n.
    """
    multiprocessing.set_start_method("fork", force=True)  # the loader forks its workers, as in a user's run
    place, count = kill or ("", 0)
    callbacks: list[Callback] = []
    match place:
        case "iteration":
            callbacks.append(Signal(count))
        case "SIGTERM" | "SIGINT" | "SIGHUP":
            callbacks.append(Signal(count, signal.Signals[place]))
        case "SIGTERM to all" | "SIGINT to all" | "SIGHUP to all":
            callbacks.append(Signal(count, signal.Signals[place.split()[0]], to_all=True))
        case "half a file":
            write_half(count)
        case "before renaming":
            kill_when(os, "replace", count, first=True, about=".pt")
        case "after renaming":
            kill_when(os, "replace", count, first=False, about="_")  # a checkpoint or last_checkpoint is renamed
        case "deleting":
            kill_when(Path, "unlink", count, first=True, about=".pt")
    toy_trainer(
        work_dir,
        loader=toy_loader(workers=workers),
        val_loader=toy_loader(6, training=False),
        metric=Draws(count if place == "evaluating" else 0),
        callbacks=callbacks,
        **{**SETTINGS, **options},
    ).train()


def train_on_a_full_disk(work_dir: Path, error_file: Path) -> None:
    """Simulate a full disk: after the first checkpoint, limit written files to 20 kB (RLIMIT_FSIZE). Writes the error
    message to `error_file`."""
    import resource

    from chordate.errors import ChordateError

    class Limit(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iteration == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        toy_trainer(work_dir, callbacks=[Limit()], save_every_iterations=3).train()
    except ChordateError as error:
        error_file.write_text(str(error))
