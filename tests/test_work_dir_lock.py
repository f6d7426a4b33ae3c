"""Two training runs cannot write to one work dir at the same time."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from processes import forkserver
from trainer_toy import read_log, toy_trainer

from chordate.data.seeding import preserved_rng
from chordate.errors import ConfigError
from chordate.training.callbacks import Callback
from chordate.training.trainer import Trainer
from chordate.work_dir_lock import locked


def test_a_second_training_in_a_work_dir_is_refused_and_leaves_it_unchanged(tmp_path: Path) -> None:
    class Second(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iteration == 2:
                with preserved_rng(), pytest.raises(ConfigError) as error:
                    toy_trainer(tmp_path / "run").train()
                errors.append(str(error.value))

    errors: list[str] = []
    toy_trainer(tmp_path / "run", callbacks=[Second()]).train()
    toy_trainer(tmp_path / "alone").train()
    assert len(errors) == 1 and f"process {os.getpid()} on " in errors[0] and "is training there" in errors[0]
    assert read_log(tmp_path / "run") == read_log(tmp_path / "alone")
    assert [path.name for path in (tmp_path / "run").glob("earlier_*")] == []


def test_a_work_dir_is_unlocked_after_a_training_and_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path):
            raise ZeroDivisionError
    with locked(tmp_path):
        pass


def hold(folder: Path) -> None:
    """Lock a folder, fork a child that lives on, and kill this process."""
    with locked(folder):
        if os.fork() == 0:
            (folder / "child").write_text(str(os.getpid()))
            time.sleep(60)
        while not (folder / "child").exists() or not (folder / "child").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_training_leaves_no_lock_though_its_workers_live_on(tmp_path: Path) -> None:
    process = forkserver().Process(target=hold, args=(tmp_path,))
    process.start()
    process.join(60)
    child = int((tmp_path / "child").read_text())
    os.kill(child, 0)  # raises if the child has ended
    with locked(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    assert process.exitcode == -signal.SIGKILL


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """In a folder from a stranger, the link could lead to any file, which the lock would overwrite."""
    (tmp_path / "other").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="lock"), locked(tmp_path):
        pass
    assert (tmp_path / "other").read_text() == "precious"


def test_a_lock_file_that_was_removed_before_it_was_locked_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a removed file would not keep out another run that creates the file again."""

    def lock(descriptor: int, operation: int) -> None:
        if not removed:
            (tmp_path / "lock").unlink()
            removed.append(descriptor)
        flock(descriptor, operation)

    removed: list[int] = []
    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock)
    with locked(tmp_path), open(tmp_path / "lock") as file, pytest.raises(BlockingIOError):
        flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(removed) == 1
