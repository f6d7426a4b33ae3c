"""SIGINT, SIGTERM and SIGHUP end training with a checkpoint, and other commands immediately with a one-line error."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from classifier_runs import write_data
from loading import checkpoint_of

from chordate import build_model
from chordate.cli import summary
from chordate.cli.main import main
from chordate.evaluation.accuracy import AccuracyMetric
from chordate.signals import StopSignals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_is_recorded_and_handlers_are_restored(name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received is number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_termination_that_is_delivered_twice_does_not_end_the_process(name: str) -> None:
    """Under SLURM, srun signals all processes, and torchrun forwards the signal that it received itself."""
    with StopSignals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.Signals[name])
        assert signals.received is signal.Signals[name]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_ends_the_process() -> None:
    with StopSignals() as signals, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received is signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_nohup_keeps_ignoring_sighup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    number = signal.Signals[name]
    before, stopped = signal.getsignal(number), []

    def run(arguments: Any) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            stopped.append(True)

    monkeypatch.setattr(summary, "run", run)
    assert main(["summary", "resnet20_cifar10"]) == 128 + number
    assert capsys.readouterr().err == f"chordate summary: interrupted by {name}\n"
    assert stopped and signal.getsignal(number) is before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_an_evaluation_immediately_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The command and its loader worker both get the signal, as from a scheduler or Ctrl-C."""
    config = write_data(tmp_path)
    model = build_model(str(config), classes=["blue", "green", "red"])
    torch.save(checkpoint_of(model), tmp_path / "model.pt")
    others, signaled = set(multiprocessing.active_children()), []

    def update(self: AccuracyMetric, predictions: Any, batch: Any) -> None:
        for worker in set(multiprocessing.active_children()) - others:
            os.kill(worker.pid or 0, signal.Signals[name])
        signaled.append(time.monotonic())
        os.kill(os.getpid(), signal.Signals[name])

    monkeypatch.setattr(AccuracyMetric, "update", update)
    capsys.readouterr()
    arguments = ["test", str(config), str(tmp_path / "model.pt"), "--data-root", str(tmp_path)]
    assert main(arguments) == 128 + signal.Signals[name]
    assert capsys.readouterr().err == f"chordate test: interrupted by {name}\n"
    gc.collect()  # frees the command's loader
    assert set(multiprocessing.active_children()) == others
    (start,) = signaled
    assert time.monotonic() - start < 20


GLOBAL_LOADER = """
import atexit, time
end = []
atexit.register(lambda: print(time.monotonic() - end[0]))  # the first to be registered is the last to be called
import torch
from chordate.data.loader import Loader, start_worker

class Slow:
    def __getitem__(self, key):
        if key[1] > 3:
            time.sleep(60)  # such as a file on a network drive
        return torch.zeros(8)

keys = [[(0, number), (0, number + 1)] for number in range(0, 40, 2)]

def loader(persistent):
    return Loader(
        Slow(), batch_sampler=keys, collate_fn=torch.stack, num_workers=2,
        worker_init_fn=start_worker, persistent_workers=persistent, multiprocessing_context="fork",
    )

persistent, plain = loader(True), loader(False)
batches, others = iter(persistent), iter(plain)
next(batches), next(others)
end.append(time.monotonic())
"""


def test_a_loader_in_a_global_variable_ends_at_exit_within_seconds(tmp_path: Path) -> None:
    """At exit, two loaders (with and without persistent workers) are in the middle of loading a slow sample."""
    script = tmp_path / "script.py"
    script.write_text(GLOBAL_LOADER)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) < 20
