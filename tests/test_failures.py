"""Failures of the machine are one-line errors with a remedy: a full disk, a killed loader process, a lost rank."""

from __future__ import annotations

import builtins
import errno
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import forkserver
from trainer_toy import ToyData, ToyMetric, read_log, toy_loader, toy_trainer

from chordate.cli import summary
from chordate.cli.main import main
from chordate.data.loader import Loader
from chordate.errors import CheckpointError, MachineError
from chordate.failures import explain_failures
from chordate.launch import finish, start
from chordate.training.callbacks import Callback, CSVLogger
from chordate.training.logging import LogFile
from chordate.training.trainer import Trainer
from chordate.weights.checkpoint_folder import CheckpointFolder

FULL = "No space left on device"


def on_a_full_disk(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Redirect files whose names have this ending to /dev/full, where every write fails as on a full disk."""
    real = builtins.open

    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        return real("/dev/full" if str(file).endswith(ending) else file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", opened)


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])  # torch's error depends on when the buffers are flushed
def test_a_full_disk_is_a_one_line_error_and_the_older_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    state = {"x": torch.zeros(size), "train": {"iteration": 1}}
    folder.save("epoch_1.pt", state)
    before = (tmp_path / "epoch_1.pt").read_bytes()
    on_a_full_disk(monkeypatch, "epoch_2.pt.tmp")
    with pytest.raises(CheckpointError) as error:
        folder.save("epoch_2.pt", state)
    assert f"epoch_2.pt: cannot be written ({FULL}); epoch_1.pt is complete, --resume continues" in str(error.value)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"epoch_1.pt", "last_checkpoint"}
    assert (tmp_path / "epoch_1.pt").read_bytes() == before


def test_an_error_of_torch_that_is_not_about_the_disk_keeps_its_traceback(tmp_path: Path) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("a mistake in a program")

    folder = CheckpointFolder(tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="a mistake in a program"):
        patch.setattr(torch, "save", fails)
        folder.save("epoch_1.pt", {})
    with pytest.raises(RuntimeError, match="a mistake"), explain_failures():
        fails()
    with pytest.raises(ConnectionRefusedError), explain_failures():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def test_a_disk_that_is_full_for_the_log_stops_training_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fill(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iteration == 5:
                on_a_full_disk(monkeypatch, "log.jsonl")

    with pytest.raises(Exception, match=rf"log.jsonl: cannot be written \({FULL}\); --resume continues from iter") as e:
        toy_trainer(tmp_path, callbacks=[Fill()], save_every_iterations=2).train()
    assert "iteration_4.pt" in str(e.value)


def test_a_log_file_on_a_full_disk_is_reported_once_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    log, handler = logging.getLogger("chordate"), LogFile("/dev/full")
    log.addHandler(handler)
    warnings: list[str] = []
    collect = logging.Handler()
    collect.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(collect)
    try:
        for number in range(3):
            log.warning("line %s", number)
    finally:
        log.removeHandler(collect)
        log.removeHandler(handler)
    assert sorted(warnings) == [
        f"/dev/full: cannot be written ({FULL}); logging goes on without this file",
        *map("line {}".format, range(3)),
    ]
    assert "Traceback" not in capfd.readouterr().err


def test_a_command_on_a_full_disk_ends_with_one_line_though_the_error_has_no_file_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: Any) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    monkeypatch.setattr(summary, "run", full)
    assert main(["summary", "resnet20_cifar10"]) == 2
    assert capsys.readouterr().err == f"chordate summary: {FULL}; free some space\n"


@pytest.mark.parametrize("where", ["callback", "transform"])
def test_a_file_error_in_code_of_the_user_keeps_its_traceback(tmp_path: Path, where: str) -> None:
    """The error may be a bug in the user's code; a one-line message would hide its location."""

    class Opens(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            (tmp_path / "no such file.txt").read_text()

    class Reads(ToyData):
        def __getitem__(self, key: tuple[int, int]) -> Any:
            np.load(tmp_path / "no such file.txt")

    loader = toy_loader(24)
    if where == "transform":
        loader = Loader(Reads(24), batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn)
    callbacks = [Opens()] if where == "callback" else []
    with pytest.raises(FileNotFoundError, match="no such file.txt"):
        toy_trainer(tmp_path / "run", loader=loader, callbacks=callbacks).train()


def test_a_file_error_of_the_package_is_one_line_with_the_file(tmp_path: Path) -> None:
    """Replaces the log folder by a file during training."""

    class Blocks(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iteration == 1:
                shutil.rmtree(trainer.log_dir)
                trainer.log_dir.write_text("a file")

    with pytest.raises(MachineError, match=r"log\.csv: Not a directory") as error:
        toy_trainer(tmp_path, callbacks=[Blocks(), CSVLogger()]).train()
    assert "\n" not in str(error.value)


def test_a_killed_worker_ends_training_with_the_remedy_and_no_other_worker_stays(tmp_path: Path) -> None:
    class KillWorker(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iteration == 3:
                worker = min(set(multiprocessing.active_children()) - others, key=lambda child: child.pid or 0)
                os.kill(worker.pid or 0, signal.SIGKILL)

    others, start = set(multiprocessing.active_children()), time.monotonic()
    trainer = toy_trainer(
        tmp_path, loader=toy_loader(200, workers=2), callbacks=[KillWorker()], save_every_iterations=2, epochs=5
    )
    with pytest.raises(MachineError) as error:
        trainer.train()
    message = str(error.value)
    assert message.startswith("a loader process was killed (signal: Killed), most often because memory ran out; set")
    assert message.endswith(f"--resume continues from {CheckpointFolder(tmp_path).last()}") and "\n" not in message
    assert time.monotonic() - start < 60
    del trainer, error
    assert set(multiprocessing.active_children()) == others


def join(rank: int, port: int) -> None:
    """Join a process group of two ranks on this machine."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    start()


def train_on_two_ranks(rank: int, port: int, folder: Path) -> None:
    """Train on two ranks; rank 1 is killed after three iterations, and rank 0 writes its error to a file."""

    class Lose(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iteration == 3 and trainer.rank == 1:
                (folder / "killed.txt").write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)

    join(rank, port)
    loader = toy_loader(24, 2, workers=1, rank=rank, world_size=2)
    try:
        toy_trainer(folder / "run", loader=loader, callbacks=[Lose()], save_every_iterations=2).train()
    except MachineError as error:
        (folder / f"error_{rank}.txt").write_text(str(error))
        (folder / "workers.txt").write_text(str(len(multiprocessing.active_children())))
    finish()


class Stops(ToyMetric):
    """A metric that sends SIGTERM to its process in the first batch of the second evaluation."""

    evaluations = 0

    def update(self, predictions: Any, batch: Any) -> None:
        super().update(predictions, batch)
        if self.evaluations == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def compute(self) -> dict[str, float]:
        self.evaluations += 1
        return super().compute()


def stop_in_an_evaluation(rank: int, port: int, folder: Path) -> None:
    join(rank, port)
    ranks = {"rank": rank, "world_size": 2}
    evaluation = {"val_loader": toy_loader(24, 2, training=False, **ranks), "metric": Stops()}
    toy_trainer(folder / "run", loader=toy_loader(24, 2, **ranks), **evaluation).train()


def exit_codes(function: Callable[..., None], folder: Path) -> list[int | None]:
    """Run a function on two ranks; returns their exit codes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ranks = [forkserver().Process(target=function, args=(rank, port, folder)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]


def test_a_signal_to_all_ranks_ends_a_saved_evaluation_at_once(tmp_path: Path) -> None:
    """The checkpoint is already saved, so nothing is lost; the scheduler would kill a long evaluation anyway."""
    assert exit_codes(stop_in_an_evaluation, tmp_path) == [143, 143]
    assert CheckpointFolder(tmp_path / "run").last() == "epoch_2.pt"
    assert len(read_log(tmp_path / "run", "val")) == 1


def test_a_lost_rank_ends_the_others_with_the_remedy(tmp_path: Path) -> None:
    assert exit_codes(train_on_two_ranks, tmp_path) == [0, -signal.SIGKILL]
    assert (tmp_path / "error_0.txt").stat().st_mtime - float((tmp_path / "killed.txt").read_text()) < 60
    message = (tmp_path / "error_0.txt").read_text()
    assert message.startswith("the connection to another rank is lost (Connection ") and "\n" not in message
    assert message.endswith("--resume continues from iteration_2.pt")
    assert (tmp_path / "workers.txt").read_text() == "0"
