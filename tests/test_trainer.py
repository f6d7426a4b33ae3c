"""The trainer: when it evaluates, saves and calls its callbacks, and what it logs."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_toy import OPTIMIZER, ToyMetric, ToyModel, log_text, read_log, toy_config, toy_loader, toy_trainer

from chordate.config import load_config
from chordate.errors import ConfigError, DataError
from chordate.progress import ProgressBar
from chordate.registry import CALLBACKS
from chordate.training.callbacks import Callback
from chordate.training.evaluation_loop import evaluate
from chordate.training.logging import RunHandler
from chordate.training.run import train
from chordate.training.settings import TrainSettings
from chordate.training.trainer import Trainer
from chordate.weights.loading import load_checkpoint

CPU = torch.device("cpu")
EPOCH = 6  # iterations per epoch of `toy_loader()`


def validation(**options: Any) -> dict[str, Any]:
    return {"val_loader": toy_loader(5, training=False), "metric": ToyMetric(), **options}


class Scripted(ToyMetric):
    """A metric that returns predefined scores."""

    def __init__(self, *scores: float):
        super().__init__()
        self.scores = list(scores)

    def compute(self) -> dict[str, float]:
        super().compute()
        return {"bbox_AP": self.scores.pop(0), "bbox_AP50": 0.5}


def logged_iterations(folder: Path, mode: str) -> list[int]:
    """The iterations of the log's records with this mode."""
    return [line["iteration"] for line in read_log(folder, mode)]


@pytest.mark.parametrize(
    ("settings", "evaluations", "checkpoints"),
    [
        ({"epochs": 3}, [6, 12, 18], {"epoch_1", "epoch_2", "epoch_3"}),
        ({"epochs": 3, "eval_every": 2, "save_every": 2}, [12, 18], {"epoch_2", "epoch_3"}),
        ({"epochs": 2, "eval_every": 0, "save_every": 0}, [12], {"epoch_2"}),
        ({"iterations": 9}, [6, 9], {"iteration_6", "iteration_9"}),
        ({"iterations": 9, "eval_every": 4, "save_every": 5}, [4, 8, 9], {"iteration_5", "iteration_9"}),
        ({"epochs": 1, "save_every_iterations": 4}, [6], {"iteration_4", "epoch_1"}),
        ({"epochs": 1, "accumulate": 4}, [2], {"epoch_1"}),
    ],
)
def test_evaluations_and_checkpoints_are_made_when_they_are_due(
    tmp_path: Path, settings: dict[str, Any], evaluations: list[int], checkpoints: set[str]
) -> None:
    toy_trainer(tmp_path, **validation(), keep=None, **settings).train()
    assert logged_iterations(tmp_path, "val") == evaluations
    assert {path.stem for path in tmp_path.glob("*.pt")} == checkpoints


class WithoutLarge(ToyMetric):
    """A metric that returns COCO's -1 for a size without objects, and a negative score."""

    def compute(self) -> dict[str, float]:
        super().compute()
        return {"bbox_AP": 0.25, "bbox_APl": -1.0, "gain": -1.5}


def test_the_log_line_of_an_evaluation_names_complete_epochs_and_shows_undefined_metrics_as_a_dash(
    tmp_path: Path,
) -> None:
    trainer = toy_trainer(tmp_path, **validation(metric=WithoutLarge()), iterations=9, eval_every=3)
    trainer.train()
    lines = [line.split("INFO ")[1] for line in log_text(trainer).splitlines() if "evaluation after" in line]
    numbers = "bbox_AP 0.2500  bbox_APl –  gain -1.5000"
    places = ["iteration 3", f"epoch 1, iteration {EPOCH}", "iteration 9"]
    assert lines == [f"evaluation after {place}: {numbers}" for place in places]


def test_the_log_has_a_record_every_log_every_iterations_and_at_the_end(tmp_path: Path) -> None:
    toy_trainer(tmp_path, iterations=8, log_every=3).train()
    assert logged_iterations(tmp_path, "train") == [3, 6, 8]
    per_iteration = read_log(tmp_path)
    toy_trainer(tmp_path / "each", iterations=8, log_every=1).train()
    each = [line["loss"] for line in read_log(tmp_path / "each")]
    assert [line["loss"] for line in per_iteration] == pytest.approx(
        [sum(each[:3]) / 3, sum(each[3:6]) / 3, sum(each[6:]) / 2]
    )


def test_the_best_checkpoint_has_the_highest_score_and_is_not_deleted(tmp_path: Path) -> None:
    metric = Scripted(0.1, 0.4, float("nan"), 0.3)
    trainer = toy_trainer(tmp_path, **validation(metric=metric), epochs=4, keep=1, save_best="bbox_AP")
    trainer.train()
    assert {path.name for path in tmp_path.glob("*.pt")} == {"epoch_4.pt", "best_bbox_AP.pt"}
    best = torch.load(tmp_path / "best_bbox_AP.pt", weights_only=True)["train"]
    assert best["iteration"] == 2 * EPOCH
    assert trainer.best == {"metric": "bbox_AP", "score": 0.4, "iteration": 2 * EPOCH}


def test_a_resumed_training_remembers_the_best_score(tmp_path: Path) -> None:
    toy_trainer(tmp_path, **validation(metric=Scripted(0.4, 0.3)), epochs=2, save_best="bbox_AP").train()
    resumed = validation(metric=Scripted(0.3, 0.2))  # the evaluation after the last checkpoint is repeated
    trainer = toy_trainer(tmp_path, **resumed, epochs=3, save_best="bbox_AP", resume=True)
    trainer.train()
    assert trainer.best == {"metric": "bbox_AP", "score": 0.4, "iteration": EPOCH}


def test_the_error_for_a_misspelled_metric_suggests_near_names_after_saving(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, **validation(metric=Scripted(0.1)), epochs=2, save_best="box_AP")
    with pytest.raises(ConfigError, match=r'unknown metric "box_AP"; did you mean "bbox_AP"'):
        trainer.train()
    assert (tmp_path / "epoch_1.pt").exists()


def test_evaluate_returns_the_metrics_of_a_checkpoint_and_writes_no_training_log(tmp_path: Path) -> None:
    toy_trainer(tmp_path, epochs=1).train()
    weights = torch.load(tmp_path / "epoch_1.pt", weights_only=True)["model"]
    model = ToyModel()
    model.load_state_dict(weights)
    expected = evaluate(model, toy_loader(5, training=False), ToyMetric(), device=CPU)
    model = ToyModel()
    load_checkpoint(model, tmp_path / "epoch_1.pt")
    trainer = toy_trainer(tmp_path / "test", model=model, **validation())
    assert trainer.evaluate() == expected
    assert not (tmp_path / "test" / "log.jsonl").exists()


def test_an_evaluation_restores_the_mode_of_every_module() -> None:
    model = ToyModel().train()
    model.backbone[1].eval()  # in eval mode like a frozen BatchNorm
    evaluate(model, toy_loader(5, training=False), ToyMetric(), device=CPU)
    assert [name for name, module in model.named_modules() if not module.training] == ["backbone.1"]


def test_tensorboard_gets_losses_learning_rate_and_metrics(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, **validation(), epochs=1, tensorboard=True)
    trainer.train()
    events = EventAccumulator(str(next(tmp_path.glob("*/tensorboard"))))
    events.Reload()
    assert {"train/loss", "train/lr", "train/fit", "val/toy_AP"} <= set(events.Tags()["scalars"])
    values = [event.value for event in events.Scalars("train/loss")]
    assert values == pytest.approx([line["loss"] for line in read_log(tmp_path)])


def test_callbacks_are_called_in_order_with_the_trainer(tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    @CALLBACKS.register_module(force=True)
    class Counts(Callback):
        def on_train_start(self, trainer: Trainer) -> None:
            calls.append(("start", trainer.epoch, trainer.iteration))

        def on_step_end(self, trainer: Trainer, losses: dict[str, Any]) -> None:
            assert set(losses) == {"fit", "size"}
            if trainer.iteration % 4 == 0:
                calls.append(("fourth", trainer.epoch, trainer.iteration))
            if trainer.iteration % trainer.steps_per_epoch == 0:
                calls.append(("epoch ends", trainer.epoch, trainer.iteration))

        def on_evaluation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
            calls.append(("evaluation", trainer.epoch, trainer.iteration))
            metrics["of_my_own"] = 5.0

        def on_log(self, trainer: Trainer, record: Any) -> None:
            assert record is trainer.history[-1]
            if record["mode"] == "val":
                calls.append(("log", record["of_my_own"], record["iteration"]))

        def on_train_end(self, trainer: Trainer) -> None:
            calls.append(("end", trainer.epoch, trainer.iteration))

    options = validation(save_best="of_my_own", save_every=0)
    toy_trainer(tmp_path, epochs=2, callbacks=[{"type": "Counts"}], **options).train()
    assert calls == [
        ("start", 0, 0), ("fourth", 0, 4), ("epoch ends", 1, 6), ("evaluation", 1, 6), ("log", 5.0, 6),
        ("fourth", 1, 8), ("fourth", 2, 12), ("epoch ends", 2, 12), ("evaluation", 2, 12), ("log", 5.0, 12),
        ("end", 2, 12),
    ]  # fmt: skip
    assert torch.load(tmp_path / "best_of_my_own.pt", weights_only=True)["train"]["iteration"] == 6


def test_the_config_is_saved_beside_the_log_and_the_users_file_is_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text := f"# by hand\ntrain = dict(epochs=1, tensorboard=False)\noptimizer = dict({OPTIMIZER})\n")
    cfg = load_config(file)
    Trainer(ToyModel(), toy_loader(), optimizer=OPTIMIZER, train=cfg.train, work_dir=tmp_path, config=cfg).train()
    assert file.read_text() == text
    (saved,) = tmp_path.glob("*/mine.py")
    assert load_config(saved).train == {"epochs": 1, "tensorboard": False}


def test_two_runs_in_one_process_share_neither_log_nor_history(tmp_path: Path) -> None:
    one, other = (toy_trainer(tmp_path / name, iterations=2) for name in ("one", "other"))
    one.train()
    assert len(one.history) == 2
    assert other.history == []
    text = log_text(one)
    other.train()
    assert log_text(one) == text
    assert log_text(other).count("iteration 2/2") == text.count("iteration 2/2") == 1
    assert not [handler for handler in logging.getLogger("chordate").handlers if isinstance(handler, RunHandler)]


def test_the_history_of_logged_numbers_survives_a_resume(tmp_path: Path) -> None:
    toy_trainer(tmp_path, iterations=3).train()
    trainer = toy_trainer(tmp_path, iterations=5, resume=True)
    trainer.train()
    history = [record["loss"] for record in trainer.history if record["mode"] == "train"]
    assert len(history) == 5
    assert history == [line["loss"] for line in read_log(tmp_path)]


def test_without_a_terminal_the_console_gets_the_lines_of_the_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = toy_trainer(tmp_path, **validation(), epochs=1, log_every=3)
    trainer.train()
    text = capsys.readouterr().out
    assert "iteration 3/6" in text
    assert "ETA" in text
    assert "toy_AP" in text
    assert log_text(trainer) == text


def test_a_terminal_gets_a_progress_bar_with_loss_learning_rate_and_speed(tmp_path: Path) -> None:
    screen = io.StringIO()
    trainer = toy_trainer(tmp_path, **validation(), epochs=2)
    trainer.progress = ProgressBar(Console(file=screen, force_terminal=True, width=150))
    trainer.train()
    text = screen.getvalue()
    for expected in ("epoch 2/2", "12/12", "evaluating", "images/s", "lr 0.05", "loss "):
        assert expected in text
    assert "iteration 3/12" not in text  # the bar replaces the log lines


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"epoch": 3}, 'did you mean "epochs"'),
        ({"epochs": 3, "iterations": 5}, "either epochs or iterations"),
        ({}, "either epochs or iterations"),
        ({"epochs": 0}, "≥ 1"),
        ({"epochs": 1.5}, "an integer"),
        ({"epochs": 1, "amp": "fp8"}, 'one of "bf16", "fp16"'),
        ({"epochs": 1, "ema": 1.0}, "> 0 and < 1"),
        ({"epochs": 1, "clip_norm": 0}, "> 0"),
        ({"epochs": 1, "log_every": 0}, "≥ 1"),
        ({"epochs": 1, "accumulate": True}, "an integer"),
    ],
)
def test_an_invalid_setting_of_the_trainer_is_a_one_line_error(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainSettings.from_config(train)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_loader_and_an_incomplete_evaluation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="yields no batch"):
        toy_trainer(tmp_path, loader=toy_loader(0)).train()
    with pytest.raises(ConfigError, match="both val_loader and metric"):
        toy_trainer(tmp_path, val_loader=toy_loader(5, training=False))
    with pytest.raises(ConfigError, match="section `train_data` is None"):
        train({"model": {}, **toy_config()}, work_dir=tmp_path / "none")
