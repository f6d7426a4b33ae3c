"""The callbacks that come with the trainer: early stopping, the validation loss, and the loggers."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_toy import ToyMetric, ToyModel, log_text, read_log, toy_loader, toy_trainer

from chordate.errors import ConfigError, TrainingError
from chordate.training.callbacks import Callback, CSVLogger, EarlyStopping, JSONLogger, ValidationLoss


class Scripted(ToyMetric):
    """A metric that returns predefined scores."""

    lower_is_better = ("error",)

    def __init__(self, *scores: float):
        super().__init__()
        self.scores = list(scores)

    def compute(self) -> dict[str, float]:
        super().compute()
        score = self.scores.pop(0)
        return {"bbox_AP": score, "error": 1 - score}


def validation(*scores: float) -> dict[str, Any]:
    return {"val_loader": toy_loader(5, training=False), "metric": Scripted(*scores)}


def evaluations(folder: Path) -> list[int]:
    return [line["epoch"] for line in read_log(folder, "val")]


def stopping(**options: Any) -> dict[str, Any]:
    return {"type": "EarlyStopping", "monitor": "bbox_AP", "patience": 2, **options}


@pytest.mark.parametrize(
    ("options", "scores", "epochs"),
    [
        ({}, (0.5, 0.4, 0.3), 3),
        ({}, (0.5, 0.4, 0.6, 0.6, 0.5, 0.9), 5),
        ({}, (math.nan, 0.1, math.nan, 0.1), 4),
        ({}, (0.1, 0.2, 0.3, 0.4), 4),
        ({"mode": "min"}, (0.1, 0.2, 0.3, 0.0), 3),
        ({"monitor": "error"}, (0.5, 0.4, 0.3), 3),  # the metric declares `error` as lower-is-better
        ({"monitor": "error"}, (0.3, 0.4, 0.5, 0.6), 4),
        ({"min_delta": 0.2}, (0.1, 0.2, 0.25, 0.9), 3),
        ({"patience": 1}, (0.5, 0.5), 2),
    ],
)
def test_training_stops_when_the_metric_has_not_improved_for_patience_evaluations(
    tmp_path: Path, options: dict[str, Any], scores: tuple[float, ...], epochs: int
) -> None:
    trainer = toy_trainer(tmp_path, **validation(*scores), epochs=len(scores), callbacks=[stopping(**options)])
    trainer.train()
    assert evaluations(tmp_path) == list(range(1, epochs + 1))
    assert (tmp_path / f"epoch_{epochs}.pt").exists()


def test_an_early_stop_between_checkpoints_saves_a_checkpoint(tmp_path: Path) -> None:
    toy_trainer(tmp_path, **validation(0.5, 0.4, 0.3), epochs=9, save_every=0, callbacks=[stopping()]).train()
    assert {path.name for path in tmp_path.glob("*.pt")} == {"epoch_3.pt"}


@pytest.mark.parametrize("log_every", [50, 4, 3])
def test_the_losses_up_to_an_early_stop_are_recorded_once(tmp_path: Path, log_every: int) -> None:
    """The last record has the mean loss since the previous record; the reference is a run that logs every iteration."""
    options: dict[str, Any] = {"epochs": 9, "callbacks": [stopping()], "loader": toy_loader(6, 2)}
    toy_trainer(tmp_path / "each", **validation(0.5, 0.4, 0.3), log_every=1, **options).train()
    toy_trainer(tmp_path / "few", **validation(0.5, 0.4, 0.3), log_every=log_every, **options).train()
    each, few = read_log(tmp_path / "each"), read_log(tmp_path / "few")
    assert [record["iteration"] for record in each] == list(range(1, 10))
    assert [record["iteration"] for record in few] == [*range(log_every, 9, log_every), 9]
    since = few[-2]["iteration"] if len(few) > 1 else 0
    assert few[-1]["loss"] == pytest.approx(sum(record["loss"] for record in each[since:]) / (9 - since))


def test_the_reason_of_an_early_stop_follows_the_evaluation_that_caused_it(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, **validation(0.5, 0.4, 0.3), epochs=9, callbacks=[stopping()])
    trainer.train()
    *_, evaluation, last = log_text(trainer).splitlines()
    assert "evaluation after epoch 3" in evaluation
    assert last.endswith("INFO stopped: bbox_AP has not improved on 0.5 for 2 evaluations")


def test_the_patience_of_a_resumed_training_counts_earlier_evaluations(tmp_path: Path) -> None:
    toy_trainer(tmp_path, **validation(0.5, 0.4), epochs=2, callbacks=[stopping(patience=3)]).train()
    # The last checkpoint was saved before the second evaluation, which is therefore repeated.
    scores = validation(0.4, 0.3, 0.2, 0.1)
    toy_trainer(tmp_path, **scores, epochs=9, callbacks=[stopping(patience=3)], resume=True).train()
    assert evaluations(tmp_path) == [1, 2, 3, 4]


def test_a_training_that_stopped_early_stops_again_when_resumed(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 9, "callbacks": [stopping()]}
    toy_trainer(tmp_path, **validation(0.5, 0.4, 0.3), **options).train()
    toy_trainer(tmp_path, **validation(0.3), **options, resume=True).train()
    assert evaluations(tmp_path) == [1, 2, 3]


def test_a_misspelled_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'EarlyStopping: unknown metric "box_AP"; did you mean "bbox_AP"'):
        toy_trainer(tmp_path, **validation(0.5), callbacks=[EarlyStopping("box_AP")]).train()


def test_settings_of_a_callback_are_validated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='did you mean "EarlyStopping"'):
        toy_trainer(tmp_path, callbacks=[{"type": "EarlyStoping"}])
    with pytest.raises(ConfigError, match="patience must be ≥ 1, got 0"):
        toy_trainer(tmp_path, callbacks=[stopping(patience=0)])


class Reports(ToyModel):
    """A model with random noise in its loss, and an error rate that is not part of the total, as it has no gradient."""

    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        losses = super().loss(batch)
        noisy = losses["fit"] + 0.001 * torch.rand(())
        return {**losses, "fit": noisy, "error": torch.tensor(0.25)}


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_validation_loss_is_the_mean_over_the_images(tmp_path: Path, ema: float | None) -> None:
    """Validation in batches of 4 and 3 images gives the loss of one batch of 7 images, with and without EMA."""
    model = ToyModel()
    options = {"val_loader": toy_loader(7, 4, training=False), "metric": ToyMetric(), "ema": ema}
    trainer = toy_trainer(tmp_path, model=model, epochs=1, callbacks=[ValidationLoss()], **options)
    trainer.train()
    with torch.no_grad():
        expected = trainer.evaluated_model.eval().loss(next(iter(toy_loader(7, 7, training=False))))
    (line,) = read_log(tmp_path, "val")
    assert line["val_fit"] == pytest.approx(expected["fit"].item(), rel=1e-5)
    assert line["val_loss"] == pytest.approx((expected["fit"] + expected["size"]).item(), rel=1e-5)


def test_the_validation_loss_is_reproducible_and_leaves_the_random_state_unchanged(tmp_path: Path) -> None:
    for name, callbacks in (("with", [ValidationLoss()]), ("without", [])):
        options = {"val_loader": toy_loader(7, training=False), "metric": ToyMetric()}
        sgd = {"type": "SGD", "lr": 0.0}
        torch.manual_seed(0)
        trainer = toy_trainer(
            tmp_path / name, model=Reports(norm=False), optimizer=sgd, epochs=2, callbacks=callbacks, **options
        )
        trainer.train()
        assert trainer.module.training
    first, second = read_log(tmp_path / "with", "val")
    assert first["val_loss"] == second["val_loss"]
    assert first["val_error"] == 0.25
    assert first["val_loss"] == pytest.approx(first["val_fit"] + first["val_size"])
    assert read_log(tmp_path / "with") == read_log(tmp_path / "without")


def test_early_stopping_can_monitor_the_validation_loss(tmp_path: Path) -> None:
    """Lower metrics of ValidationLoss count as better, even if EarlyStopping is listed before ValidationLoss."""
    callbacks = [{"type": "EarlyStopping", "monitor": "val_loss", "patience": 1}, {"type": "ValidationLoss"}]
    sgd = {"type": "SGD", "lr": 0.0}
    options = {"val_loader": toy_loader(7, training=False), "metric": ToyMetric()}
    toy_trainer(
        tmp_path, model=ToyModel(norm=False), optimizer=sgd, epochs=5, callbacks=callbacks, save_best="val_loss",
        **options,
    ).train()  # fmt: skip
    assert evaluations(tmp_path) == [1, 2]
    assert torch.load(tmp_path / "best_val_loss.pt", weights_only=True)["train"]["iteration"] == 6


def table(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_row_per_record_and_a_column_per_metric_even_after_a_resume(tmp_path: Path) -> None:
    for epochs, scores in ((1, (0.5,)), (2, (0.5, math.nan))):
        options = validation(*scores)
        trainer = toy_trainer(tmp_path, **options, epochs=epochs, log_every=2, callbacks=[CSVLogger()], resume=True)
        trainer.train()
    rows = table(trainer.log_dir / "log.csv")
    assert [(row["mode"], row["iteration"]) for row in rows] == [
        *(("train", i) for i in "246"), ("val", "6"), *(("train", i) for i in ("8", "10", "12")), ("val", "12"),
    ]  # fmt: skip
    for row, record in zip(rows, trainer.history, strict=True):
        numbers = {name: float(value) for name, value in row.items() if value and name != "mode"}
        assert numbers == pytest.approx({k: v for k, v in record.items() if k != "mode"}, nan_ok=True)


def test_the_json_lines_have_the_full_history_and_null_for_non_finite_values(tmp_path: Path) -> None:
    options = validation(math.inf)
    trainer = toy_trainer(tmp_path, **options, epochs=1, callbacks=[JSONLogger("other.jsonl")])
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "other.jsonl").read_text().splitlines()]
    assert lines[-1]["bbox_AP"] is None
    assert lines[:-1] == trainer.history[:-1]
    assert (tmp_path / "log.jsonl").read_text() == (tmp_path / "other.jsonl").read_text()


def test_tensorboard_has_the_numbers_of_every_record(tmp_path: Path) -> None:
    callbacks = [{"type": "TensorBoardLogger"}]
    trainer = toy_trainer(tmp_path, **validation(0.5), epochs=1, tensorboard=False, callbacks=callbacks)
    trainer.train()
    events = EventAccumulator(str(trainer.log_dir / "tensorboard"))
    events.Reload()
    for record in trainer.history:
        for name, value in record.items():
            if name not in ("mode", "epoch", "iteration"):
                scalars = {e.step: e.value for e in events.Scalars(f"{record['mode']}/{name}")}
                assert scalars[record["iteration"]] == pytest.approx(value)


def test_a_log_that_cannot_be_written_stops_training_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(TrainingError, match=r"taken: cannot be written \(Is a directory\)"):
        toy_trainer(tmp_path, callbacks=[FailingLogger("taken")]).train()


class FailingLogger(JSONLogger):
    def on_train_start(self, trainer: Any) -> None:
        self.path = trainer.work_dir / self.file


def test_a_configured_logger_replaces_the_trainers_default(tmp_path: Path) -> None:
    callbacks = [{"type": "JSONLogger"}, {"type": "TensorBoardLogger"}]
    trainer = toy_trainer(tmp_path, **validation(0.5), epochs=1, tensorboard=True, callbacks=callbacks)
    trainer.train()
    assert [type(callback).__name__ for callback in trainer.callbacks] == ["JSONLogger", "TensorBoardLogger"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == trainer.history


class EndsBadly(Callback):
    def __init__(self, message: str):
        self.message = message

    def on_train_end(self, trainer: Any) -> None:
        raise OSError(self.message)


class Broken(Callback):
    def on_step_end(self, trainer: Any, losses: Any) -> None:
        raise RuntimeError("the real error")


def test_an_error_in_on_train_end_hides_no_earlier_error_and_skips_no_callback(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "broken", callbacks=[EndsBadly("disk full"), CSVLogger(), Broken()])
    with pytest.raises(RuntimeError, match="the real error"):
        trainer.train()
    assert "EndsBadly.on_train_end raised OSError('disk full')" in log_text(trainer)
    assert (trainer.log_dir / "log.csv").exists()


def test_without_an_earlier_error_the_first_one_at_the_end_is_raised(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, epochs=1, callbacks=[EndsBadly("first"), EndsBadly("second"), CSVLogger()])
    with pytest.raises(OSError, match="first"):
        trainer.train()
    assert (trainer.log_dir / "log.csv").exists()
