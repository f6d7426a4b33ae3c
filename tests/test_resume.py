"""A run that is killed and resumed equals, step by step, an uninterrupted run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trainer_kills
from processes import forkserver
from trainer_kills import COSINE, SETTINGS, Signal, train, train_on_a_full_disk
from trainer_toy import ToyMetric, ToyModel, log_text, read_log, toy_loader, toy_trainer

from chordate.errors import CheckpointError
from chordate.training.callbacks import ValidationLoss
from chordate.weights.checkpoint_folder import CheckpointFolder, read_checkpoint

# An epoch has two iterations, which accumulate four and two of its six batches; there are four epochs.
ITERATIONS = 8


def in_process(function: Callable[..., None], *arguments: Any, **options: Any) -> int | None:
    """Run a function in a process forked from a server that has imported the trainer.

    Returns the exit code; None if the process has not ended after 120 s.
    """
    process = forkserver().Process(target=function, args=arguments, kwargs=options)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_process(train, folder) == 0
    assert len(read_log(folder)) == ITERATIONS
    return folder


def same(one: Any, other: Any) -> bool:
    """Whether two nested training states are bitwise equal."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_training(one: Path, other: Path) -> None:
    """Assert equal losses and evaluations, final checkpoints (weights, EMA weights, optimizer and RNG states), weights
    of the best checkpoints, and names of checkpoint files."""
    assert read_log(one) == read_log(other)
    assert read_log(one, "val") == read_log(other, "val")
    a, b = (read_checkpoint(folder / "epoch_4.pt") for folder in (one, other))
    for state in (a, b):
        del state["config"]
        for record in state["train"]["history"]:
            record.pop("images_per_s", None)
    assert same(a, b)
    best = [read_checkpoint(folder / "best_toy_AP.pt") for folder in (one, other)]
    assert same(best[0]["model"], best[1]["model"])
    files = [{path.name for path in folder.glob("*.pt")} for folder in (one, other)]
    assert files[0] == files[1]


# (point, n): the process is killed when it reaches this point for the n-th time. Checkpoints are saved after iterations
# 2, 3, 4, 6 and 8; the best checkpoint is saved after evaluations.
KILLS = [
    ("iteration", 1),  # before the first checkpoint
    ("iteration", 5),  # in the middle of an epoch, between checkpoints
    ("half a file", 3),
    ("before renaming", 5),
    ("after renaming", 4),  # the checkpoint exists, but last_checkpoint names the previous one
    ("deleting", 1),
    ("evaluating", 2),  # the checkpoint is saved, but not yet evaluated
]
LATER = [
    pytest.param((point, count), 0, marks=pytest.mark.slow)
    for point, count in (("iteration", 6), ("half a file", 4), ("after renaming", 6))
]


@pytest.mark.parametrize(
    ("kill", "workers"),
    [*((kill, 0) for kill in KILLS), (("iteration", 5), 2), (("half a file", 3), 2), *LATER],
    ids=lambda value: f"{value[0]} {value[1]}" if isinstance(value, tuple) else f"{value} workers",
)
def test_a_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, whole: Path, kill: tuple[str, int], workers: int
) -> None:
    assert in_process(train, tmp_path, workers, kill) == -signal.SIGKILL
    assert in_process(train, tmp_path, workers, resume=True) == 0
    assert_same_training(whole, tmp_path)
    assert not list(tmp_path.glob(".*"))  # no partly written file is left


def test_a_training_killed_many_times_ends_with_the_same_weights(tmp_path: Path, whole: Path) -> None:
    for iteration in (4, 5, 7):
        assert in_process(train, tmp_path, 0, ("iteration", iteration), resume=True) == -signal.SIGKILL
    assert in_process(train, tmp_path, resume=True) == 0
    assert_same_training(whole, tmp_path)


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_ends_training_after_the_iteration_with_a_checkpoint(
    tmp_path: Path, whole: Path, name: str, status: int
) -> None:
    assert in_process(train, tmp_path, 0, (name, 5)) == status
    assert CheckpointFolder(tmp_path).newest() == tmp_path / "iteration_5.pt"
    assert in_process(train, tmp_path, resume=True) == 0
    assert read_log(tmp_path) == read_log(whole)


@pytest.mark.parametrize(("name", "status"), [("SIGTERM to all", 143), ("SIGINT to all", 130), ("SIGHUP to all", 129)])
def test_a_signal_to_trainer_and_workers_ends_training_like_one_to_the_trainer(
    tmp_path: Path, whole: Path, name: str, status: int
) -> None:
    """Ctrl-C signals the whole process group, SLURM all processes of a job step; both include the workers."""
    assert in_process(train, tmp_path, 2, (name, 5)) == status
    assert CheckpointFolder(tmp_path).newest() == tmp_path / "iteration_5.pt"
    assert in_process(train, tmp_path, 2, resume=True) == 0
    assert read_log(tmp_path) == read_log(whole)


class Stops(ToyMetric):
    """A metric that counts batches and finished evaluations. It sends SIGTERM to its process in the `batch`-th batch,
    counted over all evaluations (0: never)."""

    def __init__(self, batch: int = 0):
        super().__init__()
        self.batch, self.batches, self.computed = batch, 0, 0

    def update(self, predictions: Any, batch: Any) -> None:
        super().update(predictions, batch)
        self.batches += 1
        if self.batches == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)

    def compute(self) -> dict[str, float]:
        self.computed += 1
        return super().compute()


def evaluated_training(folder: Path, metric: ToyMetric, stops: bool = False, **options: Any) -> None:
    """Train with the settings of the uninterrupted run; an evaluation has two batches. If `stops`, assert that SIGTERM
    ends the training."""
    options = {"val_loader": toy_loader(6, training=False), "metric": metric, **SETTINGS, **options}
    trainer = toy_trainer(folder, **options)
    if not stops:
        trainer.train()
        return
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 128 + signal.SIGTERM


def test_a_signal_before_an_evaluation_leaves_it_to_the_resumed_run(tmp_path: Path, whole: Path) -> None:
    metric = Stops()
    evaluated_training(tmp_path, metric, stops=True, callbacks=[Signal(4, signal.SIGTERM)])
    assert (metric.batches, metric.computed) == (2, 1)  # evaluated after iteration 2, but not after 4
    assert CheckpointFolder(tmp_path).newest() == tmp_path / "epoch_2.pt"
    evaluated_training(tmp_path, Stops(), resume=True)
    assert_same_training(whole, tmp_path)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_a_signal_in_an_evaluation_ends_it_after_the_batch(tmp_path: Path, whole: Path, batch: int) -> None:
    metric = Stops(batch)
    evaluated_training(tmp_path, metric, stops=True)
    assert (metric.batches, metric.computed) == (batch, (batch - 1) // 2)
    before = read_log(tmp_path)
    metric = Stops(1)  # stopped again, during the evaluation that the resumed run repeats
    evaluated_training(tmp_path, metric, stops=True, resume=True)
    assert (metric.batches, metric.computed) == (1, 0)
    assert read_log(tmp_path) == before
    evaluated_training(tmp_path, Stops(), resume=True)
    assert_same_training(whole, tmp_path)


def test_a_signal_in_an_evaluation_between_checkpoints_saves_a_checkpoint(tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_every": 0, "save_every_iterations": None}
    evaluated_training(tmp_path / "whole", Stops(), **options)
    evaluated_training(tmp_path / "stopped", Stops(3), stops=True, **options)
    assert [path.name for path in (tmp_path / "stopped").glob("epoch_*.pt")] == ["epoch_2.pt"]
    evaluated_training(tmp_path / "stopped", Stops(), resume=True, **options)
    for mode in ("train", "val"):
        assert read_log(tmp_path / "whole", mode) == read_log(tmp_path / "stopped", mode)


def test_a_pending_evaluation_survives_a_signal_after_a_resume_into_another_folder(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    options: dict[str, Any] = {"epochs": None, "eval_every": 0, "save_every_iterations": None}
    evaluated_training(a, Stops(), **options, iterations=2)
    evaluated_training(b, Stops(1), stops=True, **options, iterations=4, resume=a / "iteration_2.pt")
    assert CheckpointFolder(b).newest() == b / "iteration_2.pt"
    assert read_checkpoint(b / "iteration_2.pt")["train"]["files"] == ["iteration_2.pt"]
    evaluated_training(b, Stops(), **options, iterations=4, resume=True)
    assert [line["iteration"] for line in read_log(b, "val")] == [2, 4]


def test_a_signal_in_the_validation_loss_ends_it_after_the_batch(tmp_path: Path) -> None:
    class StopsInLoss(ToyModel):
        calls = 0

        def loss(self, batch: Any) -> dict[str, torch.Tensor]:
            self.calls += not self.training
            if self.calls == 3:  # call 1 checks one sample; call 2 finds the losses that require grad
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(batch)

    options: dict[str, Any] = {"callbacks": [ValidationLoss()], "ema": None}
    evaluated_training(tmp_path / "whole", Stops(), **options)
    torch.manual_seed(0)
    model = StopsInLoss()
    evaluated_training(tmp_path / "stopped", Stops(), stops=True, model=model, **options)
    assert model.calls == 3
    assert CheckpointFolder(tmp_path / "stopped").newest() == tmp_path / "stopped" / "epoch_1.pt"
    assert not read_log(tmp_path / "stopped", "val")
    evaluated_training(tmp_path / "stopped", Stops(), resume=True, **options)
    assert_same_training(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("name", ["lamb", "adan"])
def test_a_resume_is_exact_for_optimizers_that_count_steps_in_param_groups(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"optimizer": {"type": name, "lr": 0.01, "no_decay": ["bias"], "weight_decay": 0.1}}
    whole = toy_trainer(tmp_path / "whole", epochs=3, **options).train()
    for epochs in (1, 3):
        resumed = toy_trainer(tmp_path / "resumed", epochs=epochs, resume=True, **options).train()
    assert same(dict(whole.state_dict()), dict(resumed.state_dict()))
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "resumed")


def test_averages_over_several_iterations_in_the_log_survive_a_resume(tmp_path: Path) -> None:
    for folder, kills in (("whole", []), ("killed", [("iteration", 4)])):
        for kill in [*kills, None]:
            in_process(train, tmp_path / folder, 0, kill, resume=True, log_every=4)
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "killed")
    assert [line["iteration"] for line in read_log(tmp_path / "killed")] == [4, 8]


def test_a_full_disk_stops_training_and_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    error = tmp_path / "error.txt"
    in_process(train_on_a_full_disk, tmp_path / "run", error)
    assert "iteration_6.pt: cannot be written (File too large)" in error.read_text() or (
        "epoch_1.pt: cannot be written (File too large)" in error.read_text()
    )
    assert CheckpointFolder(tmp_path / "run").newest() == tmp_path / "run" / "iteration_3.pt"


def test_raising_the_epochs_on_a_resume_follows_the_longer_schedule(tmp_path: Path) -> None:
    toy_trainer(tmp_path, schedule=COSINE, epochs=2).train()
    toy_trainer(tmp_path, schedule=COSINE, epochs=4, resume=True).train()
    toy_trainer(tmp_path / "long", schedule=COSINE, epochs=4).train()
    resumed, long = ([line["lr"] for line in read_log(path)] for path in (tmp_path, tmp_path / "long"))
    assert len(resumed) == 24
    assert resumed[12:] == long[12:]
    assert resumed[:12] != long[:12]


def test_learning_rate_and_weight_decay_of_a_resumed_run_are_the_configs(tmp_path: Path) -> None:
    sgd = {"type": "SGD", "lr": 0.05, "momentum": 0.9}
    toy_trainer(tmp_path, optimizer=sgd, epochs=1).train()
    trainer = toy_trainer(tmp_path, optimizer={**sgd, "lr": 0.01, "weight_decay": 0.1}, epochs=2, resume=True)
    trainer.train()
    group = trainer.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.1)
    assert read_log(tmp_path)[-1]["lr"] == 0.01


def test_resuming_a_finished_training_does_not_change_the_log(tmp_path: Path) -> None:
    toy_trainer(tmp_path, epochs=1).train()
    before = read_log(tmp_path)
    toy_trainer(tmp_path, epochs=1, resume=True).train()
    assert read_log(tmp_path) == before


def test_a_complete_training_resumed_in_another_folder_is_saved_there(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    toy_trainer(a, epochs=1).train()
    toy_trainer(b, epochs=1, resume=a / "epoch_1.pt").train()
    assert same(read_checkpoint(a / "epoch_1.pt")["model"], read_checkpoint(b / "epoch_1.pt")["model"])
    toy_trainer(b, epochs=2, resume=True).train()
    toy_trainer(tmp_path / "whole", epochs=2).train()
    assert read_log(b) == read_log(tmp_path / "whole")[6:]


def test_resuming_in_an_empty_folder_starts_from_the_beginning_and_logs_it(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, epochs=1, resume=True)
    trainer.train()
    assert read_log(tmp_path)[0]["iteration"] == 1
    assert "no checkpoint in" in log_text(trainer)


def test_a_new_run_renames_the_old_log(tmp_path: Path) -> None:
    for _ in range(2):
        toy_trainer(tmp_path, epochs=1).train()
    assert len(read_log(tmp_path)) == 6
    assert len(list(tmp_path.glob("log_*.jsonl"))) == 1


def test_resuming_a_new_run_without_checkpoints_does_not_resume_the_run_before(tmp_path: Path) -> None:
    toy_trainer(tmp_path, epochs=1).train()
    assert in_process(train, tmp_path, 0, ("iteration", 1)) == -signal.SIGKILL
    toy_trainer(tmp_path, epochs=1, resume=True).train()
    assert [line["iteration"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_resume_with_another_batch_size_restarts_the_epoch_and_logs_it(tmp_path: Path) -> None:
    toy_trainer(tmp_path, iterations=8).train()  # 6 iterations per epoch, so the run ends in epoch 2
    trainer = toy_trainer(tmp_path, loader=toy_loader(batch_size=2), epochs=2, resume=True)
    trainer.train()
    assert [line["iteration"] for line in read_log(tmp_path)] == [*range(1, 9), *range(12, 23)]
    assert "different data, batch size" in log_text(trainer)


def test_an_evaluation_does_not_change_the_random_state(tmp_path: Path) -> None:
    for name, kwargs in (
        ("with", {"val_loader": toy_loader(6, training=False), "metric": trainer_kills.Draws()}),
        ("without", {}),
    ):
        toy_trainer(tmp_path / name, epochs=2, **kwargs).train()
    assert read_log(tmp_path / "with") == read_log(tmp_path / "without")


def test_a_resume_into_another_folder_keeps_the_files_of_both_runs_and_separate_logs(tmp_path: Path) -> None:
    evaluated: dict[str, Any] = {"val_loader": toy_loader(6, training=False), "save_best": "toy_AP", "keep": 1}
    a, b = tmp_path / "a", tmp_path / "b"
    toy_trainer(a, metric=ToyMetric(), epochs=2, **{**evaluated, "keep": None}).train()
    toy_trainer(b, metric=ToyMetric(), epochs=3, optimizer={"type": "SGD", "lr": 0.01}, **evaluated).train()
    (b / "pretrained.pt").write_bytes(b"the user's")
    before = {path: path.read_bytes() for path in a.glob("*") if path.is_file()}
    others = {path.name: path.read_bytes() for path in b.glob("[eb]*.pt")}
    assert set(others) == {"epoch_3.pt", "best_toy_AP.pt"}

    trainer = toy_trainer(b, metric=ToyMetric(), epochs=3, resume=a / "epoch_1.pt", **evaluated)
    trainer.train()

    assert before == {path: path.read_bytes() for path in a.glob("*") if path.is_file()}
    [aside] = b.glob("earlier_*")
    assert others == {path.name: path.read_bytes() for path in aside.iterdir()}
    assert {path.name for path in b.glob("*.pt")} == {"epoch_3.pt", "best_toy_AP.pt", "pretrained.pt"}
    assert [line["iteration"] for line in read_log(b)] == list(range(7, 19))
    assert len(list(b.glob("log_*.jsonl"))) == 1
    assert read_log(b)[:6] == read_log(a)[6:]  # the same epoch 2 as in the run `a`
    best = read_checkpoint(b / "best_toy_AP.pt")["train"]
    assert trainer.best == best["best"]  # the best of this run, not of the run that was moved aside
    assert best["iteration"] >= 6
    assert read_checkpoint(b / "epoch_3.pt")["train"]["files"] == ["epoch_2.pt", "epoch_3.pt"]
    text = log_text(trainer)
    assert f"epoch_1.pt is not in {b}" in text
    assert f"moved to {aside.name}/" in text


def test_a_resume_that_fails_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    for name in ("a", "b"):
        toy_trainer(tmp_path / name, epochs=1).train()
    files = [tmp_path / "b" / name for name in ("epoch_1.pt", "last_checkpoint", "log.jsonl")]
    before = [path.read_bytes() for path in files]
    adam = {"type": "AdamW", "lr": 0.01}
    with pytest.raises(CheckpointError, match='set it to "SGD"'):
        toy_trainer(tmp_path / "b", optimizer=adam, epochs=2, resume=tmp_path / "a" / "epoch_1.pt").train()
    assert before == [path.read_bytes() for path in files]


def test_a_new_run_overwrites_no_checkpoint_of_the_run_before(tmp_path: Path) -> None:
    toy_trainer(tmp_path, epochs=1).train()
    first = (tmp_path / "epoch_1.pt").read_bytes()
    toy_trainer(tmp_path, epochs=1).train()
    assert next(tmp_path.glob("earlier_*/epoch_1.pt")).read_bytes() == first


def test_a_resume_with_more_iterations_keeps_the_last_evaluation_and_the_better_model(tmp_path: Path) -> None:
    """With `eval_every=0`, only the end of training is evaluated, which is now iteration 4. The resumed run also
    evaluates after iteration 2, where the first run ended."""

    class Falling(ToyMetric):
        def compute(self) -> dict[str, float]:
            super().compute()
            return {"toy_AP": scores.pop(0)}

    shared = {"val_loader": toy_loader(6, training=False), "metric": Falling(), "save_best": "toy_AP", "eval_every": 0}
    scores = [0.9]
    toy_trainer(tmp_path, iterations=2, **shared).train()
    scores = [0.9, 0.1]  # the evaluation after iteration 2 is repeated, with the same weights
    trainer = toy_trainer(tmp_path, iterations=4, resume=True, **shared)
    trainer.train()
    assert trainer.best == {"metric": "toy_AP", "score": 0.9, "iteration": 2}
    assert torch.load(tmp_path / "best_toy_AP.pt", weights_only=True)["train"]["iteration"] == 2
    assert [(line["iteration"], line["toy_AP"]) for line in read_log(tmp_path, "val")] == [(2, 0.9), (4, 0.1)]
