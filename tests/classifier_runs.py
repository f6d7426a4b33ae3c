"""Trains a small CIFAR-style classifier with `chordate train`, in processes that report their phase to the tests."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from class_folders import write_folders
from processes import forkserver

PHASES = ("starting", "training", "saving", "evaluating")
CONFIG = """
base = "resnet20_cifar10"
train_data = dict(batch_size=10, workers=2)
val_data = dict(batch_size=10, workers=1)
train = dict(
    iterations=30, eval_every=6, save_every=6, save_every_iterations=2, ema=0.9, save_best="top1", log_every=1,
    tensorboard=False,
)
"""


def write_data(folder: Path) -> Path:
    """Write the images and `tiny.py`, a config of ResNet-20 for them; returns the path of the config."""
    write_folders(folder, {"train": 20, "test": 10}, side=32, wider=0)
    (folder / "tiny.py").write_text(CONFIG)
    return folder / "tiny.py"


def train(config: Path, work_dir: Path, phase: Any, errors: Path) -> None:
    """Run `chordate train … --resume` as from the command line, in a process group of its own."""
    from chordate.cli.main import main
    from chordate.training.trainer import Trainer
    from chordate.weights.checkpoint_folder import CheckpointFolder

    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # the loader forks its workers, as in a user's run
    for owner, name, number in (
        (Trainer, "train_step", 1), (CheckpointFolder, "save", 2), (CheckpointFolder, "write", 2),
        (Trainer, "evaluate", 3),
    ):  # fmt: skip
        setattr(owner, name, marking(getattr(owner, name), phase, number))
    with open(errors, "w") as file, open(errors.with_suffix(".out"), "w") as output:
        os.dup2(file.fileno(), 2)
        os.dup2(output.fileno(), 1)
    arguments = ["train", str(config), "--data-root", str(config.parent), "--work-dir", str(work_dir), "--resume"]
    sys.exit(main(arguments))


def marking(function: Callable[..., Any], phase: Any, number: int) -> Callable[..., Any]:
    """Wrap `function` to set `phase` to `number` during each call, and then to its former value, but at least 1."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        before, phase.value = phase.value, number
        try:
            return function(*arguments, **options)
        finally:
            phase.value = max(before, 1)

    return call


class Run:
    """A process that runs `train`.

    Attributes:
        process: the process.
        errors: the file with its standard error.
    """

    def __init__(self, config: Path, work_dir: Path):
        work_dir.mkdir(exist_ok=True, parents=True)
        self.errors = work_dir.parent / f"{work_dir.name}.err"
        context = forkserver()
        self.phase = context.Value("i", 0, lock=False)
        self.process = context.Process(target=train, args=(config, work_dir, self.phase, self.errors))
        self.process.start()

    def wait_for(self, phase: str) -> bool:
        """Wait until the run reaches `phase`; returns False if the run ends first."""
        while self.process.is_alive():
            if self.phase.value == PHASES.index(phase):
                return True
            time.sleep(0.0002)
        return False

    def end(self, timeout: float = 400) -> int | None:
        """Wait up to `timeout` seconds for the end of the run; returns the exit code, or None if it has not ended."""
        self.process.join(timeout)
        return self.process.exitcode

    def signal(self, number: int) -> str:
        """Send a signal to the process and its workers; returns the phase of the run at that moment."""
        phase = PHASES[self.phase.value]
        os.killpg(self.process.pid, number)
        return phase

    def kill(self) -> str:
        """Kill the process, but not its workers; returns the phase of the run at that moment."""
        phase = PHASES[self.phase.value]
        os.kill(self.process.pid, 9)
        return phase

    def seconds_until_no_worker(self, limit: float = 60) -> float:
        """Wait up to `limit` seconds until no process of the run's group is left; returns the seconds waited."""
        start = time.monotonic()
        while any(self.members()) and time.monotonic() - start < limit:
            time.sleep(0.02)
        return time.monotonic() - start

    def members(self) -> Iterator[int]:
        """Ids of the running processes of the run's group: the workers, and the process itself until it has ended."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                except OSError:  # the process has ended
                    continue
                if int(group) == self.process.pid and state not in "ZX":
                    yield int(entry.name)
