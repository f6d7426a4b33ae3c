"""Trials of a training run that is killed, stopped, out of disk space or started twice.

docs/reliability.md has the results. The trials print their counts: `pytest tests/test_reliability.py -m slow -s`.
CHORDATE_KILLS sets the number of kills.
"""

from __future__ import annotations

import collections
import itertools
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from classifier_runs import PHASES, Run, write_data
from test_resume import same
from trainer_toy import read_log

from chordate.weights.checkpoint_folder import CheckpointFolder, read_checkpoint

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CHORDATE_KILLS", "20"))
# The longest wait in a phase before the kill, in seconds: about the duration of the phase.
DELAYS = {"starting": 3.0, "training": 0.1, "saving": 0.03, "evaluating": 0.2}


SIGNALS = [
    ("SIGINT", "training"),
    ("SIGTERM", "saving"),
    ("SIGHUP", "evaluating"),
    ("SIGTERM", "evaluating"),
    ("SIGHUP", "training"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of the uninterrupted run."""
    work_dir = tmp_path_factory.mktemp("whole") / "run"
    run = Run(config, work_dir)
    assert run.end() == 0, run.errors.read_text()
    return work_dir


def final_state(work_dir: Path) -> dict[str, Any]:
    """The last checkpoint, without the measured speeds and the config."""
    path = CheckpointFolder(work_dir).newest()
    assert path is not None and path.name == "iteration_30.pt"
    state = read_checkpoint(path)
    for record in state["train"]["history"]:
        record.pop("images_per_s", None)
    return {name: value for name, value in state.items() if name != "config"}


def assert_equal_runs(one: Path, other: Path) -> None:
    """Assert bitwise equal last checkpoints, bitwise equal weights of the best checkpoints, and equal logs.

    Also assert that `other` has no temporary files.
    """
    assert same(final_state(one), final_state(other))
    best = [read_checkpoint(folder / "best_top1.pt") for folder in (one, other)]
    assert same(best[0]["model"], best[1]["model"])
    for mode in ("train", "val"):
        assert read_log(one, mode) == read_log(other, mode)
    assert not list(other.glob(".*.tmp"))


def test_a_run_killed_at_random_moments_equals_the_uninterrupted_run(config: Path, whole: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    kills: collections.Counter[str] = collections.Counter()
    runs, attempts, orphaned = 0, 0, 0.0
    while kills.total() < KILLS:
        work_dir = tmp_path / f"run_{runs}"
        for attempt in itertools.count():
            run = Run(config, work_dir)
            if kills.total() < KILLS and (attempt == 0 or draw.random() < 0.5):  # otherwise, it runs to its end
                target = PHASES[attempts % len(PHASES)]
                attempts += 1
                if target != "starting":
                    time.sleep(draw.uniform(0, 6))
                if run.wait_for(target):
                    time.sleep(draw.uniform(0, DELAYS[target]))
                    if run.process.is_alive():
                        kills[run.kill()] += 1
                        run.end()
                        orphaned = max(orphaned, run.seconds_until_no_worker())
                        continue
            assert run.end() == 0, run.errors.read_text()
            break
        assert_equal_runs(whole, work_dir)
        runs += 1
    print(f"\n{kills.total()} SIGKILLs {dict(kills)} in {runs} runs, all bitwise equal to the uninterrupted run; ")
    print(f"the last worker ended at most {orphaned:.1f} s after its killed trainer")
    assert orphaned < 60


def test_signals_end_a_run_with_a_checkpoint_and_no_traceback(config: Path, whole: Path, tmp_path: Path) -> None:
    slowest: dict[str, float] = {}
    for name, phase in SIGNALS:
        work_dir = tmp_path / f"{name}_{phase}"
        run = Run(config, work_dir)
        assert run.wait_for(phase)
        start = time.monotonic()
        run.signal(signal.Signals[name])
        if name != "SIGINT":
            run.signal(signal.Signals[name])  # srun and torchrun may both deliver the signal
        assert run.end() == 128 + signal.Signals[name], run.errors.read_text()
        slowest[phase] = max(slowest.get(phase, 0.0), time.monotonic() - start)
        assert run.errors.read_text() == ""
        assert run.seconds_until_no_worker() < 5
        run = Run(config, work_dir)
        assert run.end() == 0, run.errors.read_text()
        assert_equal_runs(whole, work_dir)
    print(f"\n{len(SIGNALS)} signals, all with a checkpoint; slowest end in seconds by phase: {slowest}")
    assert max(slowest.values()) < 60


def test_a_killed_worker_ends_the_run_with_one_line(config: Path, whole: Path, tmp_path: Path) -> None:
    slowest = 0.0
    for phase in ("training", "saving", "evaluating"):
        work_dir = tmp_path / phase
        run = Run(config, work_dir)
        assert run.wait_for("saving") and run.wait_for("training") and run.wait_for(phase)
        worker = min(set(run.members()) - {run.process.pid})
        start = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        assert run.end() == 2
        slowest = max(slowest, time.monotonic() - start)
        (line,) = run.errors.read_text().splitlines()
        assert line.startswith("chordate train: a loader process was killed (signal: Killed)")
        assert "--resume continues from iteration_" in line
        assert run.seconds_until_no_worker() < 5
        run = Run(config, work_dir)
        assert run.end() == 0, run.errors.read_text()
        assert_equal_runs(whole, work_dir)
    print(f"\n3 killed workers, each one line; slowest end {slowest:.1f} s")
    assert slowest < 60


def test_a_full_disk_ends_a_run_with_one_line_and_a_whole_checkpoint(config: Path, whole: Path, tmp_path: Path) -> None:
    """The disk is a small file system in memory, which is enlarged before the run is resumed."""
    mount = tmp_path / "disk"
    mount.mkdir()
    messages = []
    for kilobytes in (6800, 10200, 12000):
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(mount)], capture_output=True
        )
        if made.returncode:
            pytest.skip("only root may mount a small file system")
        try:
            run = Run(config, mount / "run")
            code, text = run.end(), run.errors.read_text()
            if code == 0:  # the disk was large enough
                continue
            messages.append(text)
            assert code == 2 and text.count("\n") == 1 and "No space left on device" in text
            newest = CheckpointFolder(mount / "run").newest()
            assert newest is None or f"{newest.name}" in text
            subprocess.run(["mount", "-o", "remount,size=100m", str(mount)], check=True)
            run = Run(config, mount / "run")
            assert run.end() == 0, run.errors.read_text()
            assert_equal_runs(whole, mount / "run")
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)
    print(f"\n{len(messages)} full disks:", *messages, sep="\n")
    assert messages


def test_a_second_run_in_the_same_work_dir_is_refused(config: Path, whole: Path, tmp_path: Path) -> None:
    first = Run(config, tmp_path / "run")
    assert first.wait_for("training")
    first.errors = first.errors.rename(tmp_path / "first.err")
    second = Run(config, tmp_path / "run")
    assert second.end() == 2
    (line,) = second.errors.read_text().splitlines()
    assert f"process {first.process.pid} on" in line and "is training there" in line
    assert first.end() == 0
    assert_equal_runs(whole, tmp_path / "run")
