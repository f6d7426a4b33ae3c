"""The Runner: when it evaluates and saves, what it tells, and that mmengine's hooks find what they expect."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import OPTIMIZER, ToyMetric, ToyModel, read_log, toy_config, toy_loader, toy_runner
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chordate.config import load_config
from chordate.errors import ConfigError, DataError
from chordate.training.evaluate import evaluate
from chordate.training.progress import ProgressBar
from chordate.training.runner import Runner
from chordate.training.settings import TrainSettings

CPU = torch.device("cpu")
EPOCH = 6  # iterations of the toy's


def validation(**options: Any) -> dict[str, Any]:
    return {"val_loader": toy_loader(5, training=False), "metric": ToyMetric(), **options}


class Scripted(ToyMetric):
    """Gives scores that were written down beforehand."""

    def __init__(self, *scores: float):
        super().__init__()
        self.scores = list(scores)

    def evaluate(self) -> dict[str, float]:
        super().evaluate()
        return {"bbox_AP": self.scores.pop(0), "bbox_AP50": 0.5}


def at(folder: Path, mode: str) -> list[int]:
    """The iterations after which there is a line of a kind in the log."""
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
def test_evaluations_and_checkpoints_come_when_they_are_due(
    tmp_path: Path, settings: dict[str, Any], evaluations: list[int], checkpoints: set[str]
) -> None:
    toy_runner(tmp_path, **validation(), keep=None, **settings).train()
    assert at(tmp_path, "val") == evaluations
    assert {path.stem for path in tmp_path.glob("*.pt")} == checkpoints


def test_the_log_has_a_line_every_so_many_iterations_and_the_last(tmp_path: Path) -> None:
    toy_runner(tmp_path, iterations=8, log_every=3).train()
    assert at(tmp_path, "train") == [3, 6, 8]
    per_iteration = read_log(tmp_path)
    toy_runner(tmp_path / "each", iterations=8, log_every=1).train()
    each = [line["loss"] for line in read_log(tmp_path / "each")]
    assert [line["loss"] for line in per_iteration] == pytest.approx(
        [sum(each[:3]) / 3, sum(each[3:6]) / 3, sum(each[6:]) / 2]
    )


def test_the_best_checkpoint_is_of_the_highest_score_and_survives_the_clearing(tmp_path: Path) -> None:
    metric = Scripted(0.1, 0.4, float("nan"), 0.3)
    runner = toy_runner(tmp_path, **validation(metric=metric), epochs=4, keep=1, save_best="bbox_AP")
    runner.train()
    assert {path.name for path in tmp_path.glob("*.pt")} == {"epoch_4.pt", "best_bbox_AP.pt"}
    best = torch.load(tmp_path / "best_bbox_AP.pt", weights_only=True)["train"]
    assert best["iteration"] == 2 * EPOCH
    assert runner.best == {"metric": "bbox_AP", "score": 0.4, "iteration": 2 * EPOCH}


def test_a_resumed_training_remembers_the_best_score(tmp_path: Path) -> None:
    toy_runner(tmp_path, **validation(metric=Scripted(0.4, 0.3)), epochs=2, save_best="bbox_AP").train()
    resumed = validation(metric=Scripted(0.3, 0.2))  # the evaluation after the last checkpoint is done again
    runner = toy_runner(tmp_path, **resumed, epochs=3, save_best="bbox_AP", resume=True)
    runner.train()
    assert runner.best == {"metric": "bbox_AP", "score": 0.4, "iteration": EPOCH}


def test_a_misspelt_metric_is_told_with_near_names_after_saving(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, **validation(metric=Scripted(0.1)), epochs=2, save_best="box_AP")
    with pytest.raises(ConfigError, match=r'unknown metric "box_AP"; did you mean "bbox_AP"'):
        runner.train()
    assert (tmp_path / "epoch_1.pt").exists()


def test_evaluate_gives_the_metrics_of_a_checkpoint_and_writes_no_training_log(tmp_path: Path) -> None:
    toy_runner(tmp_path, epochs=1).train()
    weights = torch.load(tmp_path / "epoch_1.pt", weights_only=True)["model"]
    model = ToyModel()
    model.load_state_dict(weights)
    expected = evaluate(model, toy_loader(5, training=False), ToyMetric(), device=CPU)
    runner = Runner.from_config(toy_config(), model=ToyModel(), work_dir=tmp_path / "test", **validation())
    assert runner.evaluate(tmp_path / "epoch_1.pt") == expected
    assert not (tmp_path / "test" / "log.jsonl").exists()


def test_an_evaluation_leaves_every_part_of_the_model_in_its_mode() -> None:
    model = ToyModel().train()
    model.backbone[1].eval()  # a frozen BatchNorm
    evaluate(model, toy_loader(5, training=False), ToyMetric(), device=CPU)
    assert [name for name, module in model.named_modules() if not module.training] == ["backbone.1"]


def test_tensorboard_gets_losses_rate_and_metrics(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, **validation(), epochs=1, tensorboard=True)
    runner.train()
    events = EventAccumulator(str(next(tmp_path.glob("*/vis_data"))))
    events.Reload()
    assert {"train/loss", "train/lr", "train/fit", "val/toy_AP"} <= set(events.Tags()["scalars"])
    values = [event.value for event in events.Scalars("train/loss")]
    assert values == pytest.approx([line["loss"] for line in read_log(tmp_path)])


def test_mmengines_hooks_are_called_as_there(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []

    @HOOKS.register_module(force=True)
    class Counts(Hook):
        def before_train_epoch(self, runner: Any) -> None:
            calls.append(("epoch begins", runner.epoch, runner.iter))

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if self.every_n_train_iters(runner, 4):
                calls.append(("fourth", batch_idx, runner.iter))
            assert [len(batch) for batch in data_batch] == [4 if batch_idx < 5 else 2]
            assert set(outputs) == {"fit", "size"}
            assert MessageHub.get_current_instance().get_info("iter") == runner.iter

        def after_train_epoch(self, runner: Any) -> None:
            calls.append(("epoch ends", runner.epoch, runner.iter))

    toy_runner(tmp_path, epochs=2, hooks=[{"type": "Counts"}]).train()
    assert calls == [
        ("epoch begins", 0, 0), ("fourth", 3, 3), ("epoch ends", 0, 5),
        ("epoch begins", 1, 6), ("fourth", 1, 7), ("fourth", 5, 11), ("epoch ends", 1, 11),
    ]  # fmt: skip


def test_mmengines_early_stopping_stops(tmp_path: Path) -> None:
    stopping = EarlyStoppingHook("bbox_AP", rule="greater", patience=2)
    toy_runner(tmp_path, **validation(metric=Scripted(0.5, 0.4, 0.3)), epochs=9, hooks=[stopping]).train()
    assert at(tmp_path, "val") == [6, 12, 18]
    assert (tmp_path / "epoch_3.pt").exists()


def test_the_config_is_kept_beside_the_log_and_a_users_own_file_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text := f"# by hand\ntrain = dict(epochs=1, tensorboard=False)\noptimizer = dict({OPTIMIZER})\n")
    Runner.from_config(load_config(file), model=ToyModel(), work_dir=tmp_path, train_loader=toy_loader())
    assert file.read_text() == text
    (kept,) = tmp_path.glob("*/mine.py")
    assert load_config(kept).train == {"epochs": 1, "tensorboard": False}


def test_two_runs_in_one_process_share_neither_log_nor_history(tmp_path: Path) -> None:
    one, other = (toy_runner(tmp_path / name, iterations=2) for name in ("one", "other"))
    one.train()
    assert len(one.message_hub.get_scalar("train/loss").data[0]) == 2
    assert "train/loss" not in other.message_hub.log_scalars
    assert one.logger is not other.logger


def test_the_history_of_logged_numbers_survives_a_resume(tmp_path: Path) -> None:
    toy_runner(tmp_path, iterations=3).train()
    runner = toy_runner(tmp_path, iterations=5, resume=True)
    runner.train()
    history = runner.message_hub.get_scalar("train/loss").data[0].tolist()
    assert history == [line["loss"] for line in read_log(tmp_path)]


def test_the_console_gets_lines_where_it_is_no_terminal_and_without_mmengines_chatter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_runner(tmp_path, **validation(), epochs=1, log_every=3).train()
    text = capsys.readouterr().out
    assert "iteration 3/6" in text
    assert "ETA" in text
    assert "toy_AP" in text
    assert "Hooks will be executed" not in text
    assert "Hooks will be executed" in next(tmp_path.glob("*/*.log")).read_text()


def test_a_terminal_gets_a_bar_with_loss_rate_speed_and_time_left(tmp_path: Path) -> None:
    screen = io.StringIO()
    runner = toy_runner(tmp_path, **validation(), epochs=2)
    runner.progress = ProgressBar(Console(file=screen, force_terminal=True, width=150))
    runner.train()
    text = screen.getvalue()
    for shown in ("epoch 2/2", "12/12", "evaluating", "images/s", "lr 0.05", "loss "):
        assert shown in text
    assert "iteration 3/12" not in text  # no lines besides the bar


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"epoch": 3}, 'did you mean "epochs"'),
        ({"epochs": 3, "iterations": 5}, "either epochs or iterations"),
        ({}, "either epochs or iterations"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 1.5}, "whole number"),
        ({"epochs": 1, "amp": "fp8"}, '"bf16" or "fp16"'),
        ({"epochs": 1, "ema": 1.0}, "above 0 and below 1"),
        ({"epochs": 1, "clip_norm": 0}, "above 0"),
        ({"epochs": 1, "log_every": 0}, "at least 1"),
        ({"epochs": 1, "accumulate": True}, "whole number"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told_in_one_line(train: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainSettings.from_config(train)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_loader_and_half_an_evaluation_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives no batch"):
        toy_runner(tmp_path, loader=toy_loader(0)).train()
    with pytest.raises(ConfigError, match="both val_data and metric"):
        toy_runner(tmp_path, val_loader=toy_loader(5, training=False))
    with pytest.raises(ConfigError, match="no training data"):
        Runner.from_config(toy_config(), model=ToyModel(), work_dir=tmp_path, **validation()).train()
