"""Mistakes in custom components, checkpoints and settings of a run raise one-line errors or log warnings."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from class_folders import write_folders
from test_two_stage import batch_of, detector
from trainer_toy import ToyMetric, ToyModel, log_text, toy_loader, toy_trainer

import chordate
from chordate.errors import CheckpointError, ConfigError, TrainingError
from chordate.log_once import no_repeated_warnings
from chordate.model_contracts import Metric, compute_numbers
from chordate.training.callbacks import Callback
from chordate.training.trainer import Trainer


def test_two_heads_with_losses_of_the_same_name_are_an_error():
    model = detector()
    original = model.rpn.loss
    model.rpn.loss = lambda *args: {"box_cls": sum(original(*args).values())}
    with pytest.raises(TrainingError, match='two heads have a loss named "box_cls"; rename one of them'):
        model.loss(batch_of(2, 1))


@pytest.mark.slow  # test_training_steps checks this for detectors with these and more heads
def test_the_losses_of_a_two_stage_detector_compile_to_one_graph():
    """Merging the loss dicts of the heads causes no graph break."""
    model = detector()
    torch._dynamo.reset()
    batch = batch_of(2, 1)
    compiled = torch.compile(lambda: model.loss(batch), backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = model.loss(batch)
    torch.manual_seed(0)
    assert compiled().keys() == expected.keys()


@pytest.mark.parametrize("name", ["epoch", "mode", "iteration"])
def test_a_metric_must_not_have_the_name_of_a_log_field(name):
    class Clash(Metric):
        def compute(self) -> dict[str, float]:
            return {name: 0.5}

    with pytest.raises(ConfigError, match=f'Clash: a metric must not be named "{name}"'):
        compute_numbers(Clash())


def test_a_callback_must_not_overwrite_the_epoch_of_a_log_record(tmp_path: Path) -> None:
    class Clash(Callback):
        def on_evaluation_end(self, trainer: Any, metrics: dict[str, float]) -> None:
            metrics["epoch"] = 7.0

    options: dict[str, Any] = {"val_loader": toy_loader(training=False), "metric": ToyMetric(), "callbacks": [Clash()]}
    with pytest.raises(ConfigError, match='must not be named "epoch", a field of every log record'):
        toy_trainer(tmp_path, epochs=1, **options).train()


@pytest.mark.parametrize("part", ["buffer", "average", "average's buffer"])
def test_nan_in_a_buffer_or_an_average_is_not_saved(tmp_path: Path, part: str) -> None:
    class Spoil(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iteration == 8:
                model = trainer.module if part == "buffer" or trainer.ema is None else trainer.ema.module
                tensor = model.head.weight if part == "average" else model.backbone[1].running_var
                tensor.data.fill_(math.nan)

    with pytest.raises(TrainingError) as error:
        toy_trainer(tmp_path, callbacks=[Spoil()], ema=0.9).train()
    name = "head.weight" if part == "average" else "backbone.1.running_var"
    owner = "" if part == "buffer" else "the EMA of "
    assert str(error.value).startswith(f"{owner}{name} has a NaN or Inf after iteration")
    assert [path.name for path in tmp_path.glob("*.pt")] == ["epoch_1.pt"]


def test_a_last_batch_of_one_image_is_left_out_under_batchnorm_and_logged_once(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train": 3, "test": 1}, side=32, wider=0)  # nine training images of three classes
    logged = []
    for backbone, steps in (("resnet20_cifar", 2), ({"type": "resnet20_cifar", "norm": "FrozenBN"}, 3)):
        config = {
            "base": "resnet20_cifar10", "model": {"backbone": backbone}, "val_data": None,
            "train_data": {"batch_size": 4, "workers": 0},
            "train": {"epochs": 2, "save_best": None, "tensorboard": False},
        }  # fmt: skip
        trainer = chordate.train(config, data_root=tmp_path, work_dir=tmp_path / f"run_{steps}")
        assert trainer.iteration == 2 * steps
        logged.append(log_text(trainer).count("train_data: each epoch leaves out 1 image that would be alone in the"))
    assert logged == [1, 0]


class NaNMetric(ToyMetric):
    def compute(self) -> dict[str, float]:
        return super().compute() | {"toy_AP": math.nan}


def test_a_best_score_that_is_always_nan_logs_one_warning(tmp_path: Path) -> None:
    options: dict[str, Any] = {"val_loader": toy_loader(training=False), "metric": NaNMetric()}
    trainer = toy_trainer(tmp_path, epochs=2, save_best="toy_AP", **options)
    trainer.train()
    assert trainer.best is None and not (tmp_path / "best_toy_AP.pt").exists()
    assert log_text(trainer).count("train.save_best: toy_AP is NaN in this evaluation") == 1


def test_a_best_score_without_ground_truth_is_shown_as_a_dash(tmp_path: Path) -> None:
    class Absent(ToyMetric):
        def compute(self) -> dict[str, float]:
            return super().compute() | {"toy_AP": -1.0}

    options: dict[str, Any] = {"val_loader": toy_loader(training=False), "metric": Absent()}
    trainer = toy_trainer(tmp_path, epochs=1, save_best="toy_AP", **options)
    trainer.train()
    assert "best toy_AP so far: –" in log_text(trainer)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"seed": 1}, {"seed": 2}, "saved with train.seed=1, resumed with train.seed=2"),
        ({"ema": 0.9}, {"ema": 0.5}, "saved with train.ema=0.9, resumed with train.ema=0.5"),
        ({}, {"ema": 0.5}, "saved with train.ema=None, resumed with train.ema=0.5"),
        ({"ema": 0.9}, {"ema": 0.9}, None),
    ],
)
def test_a_changed_seed_or_ema_decay_logs_a_warning_on_resume(tmp_path: Path, before, after, message) -> None:
    toy_trainer(tmp_path, epochs=1, **before).train()
    trainer = toy_trainer(tmp_path, epochs=2, resume=True, **after)
    trainer.train()
    assert trainer.iteration == trainer.max_iterations
    warnings = [line for line in log_text(trainer).splitlines() if "WARNING" in line]
    assert [message in line for line in warnings] == [True] if message else not warnings


@pytest.mark.parametrize("optimizer", [{"type": "AdamW", "lr": 0.01}, {"type": "Adagrad", "lr": 0.01}])
def test_an_incomplete_optimizer_state_is_a_one_line_error(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    toy_trainer(tmp_path / "a", optimizer=optimizer, epochs=1).train()
    path = tmp_path / "a" / "epoch_1.pt"
    checkpoint = torch.load(path)
    state = checkpoint["train"]["optimizer"]["state"]
    key = list(next(iter(state.values())))[-1]
    del state["head.weight"][key]
    torch.save(checkpoint, path)
    message = rf"epoch_1.pt: train.optimizer.state.head.weight.{key} must have shape \[.*\], got nothing"
    with pytest.raises(CheckpointError, match=message):
        toy_trainer(tmp_path / "a", optimizer=optimizer, epochs=2, resume=path).train()


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad"])
@pytest.mark.parametrize("emptied", [False, True])
def test_a_missing_optimizer_state_of_a_parameter_is_a_one_line_error(tmp_path: Path, name: str, emptied: bool) -> None:
    optimizer = {"type": name, "lr": 0.01, **({"momentum": 0.9} if name == "SGD" else {})}
    toy_trainer(tmp_path / "a", optimizer=optimizer, epochs=1).train()
    path = tmp_path / "a" / "epoch_1.pt"
    checkpoint = torch.load(path)
    del checkpoint["train"]["optimizer"]["state"]["head.weight"]
    if emptied:
        checkpoint["train"]["optimizer"]["state"]["head.weight"] = {}
    torch.save(checkpoint, path)
    trainer = toy_trainer(tmp_path / "a", optimizer=optimizer, epochs=2, resume=path)
    if emptied and name == "AdamW":  # valid: the state of a parameter that never had a gradient
        trainer.train()
        return
    with pytest.raises(
        CheckpointError, match="epoch_1.pt: train.optimizer.state has no entry for head.weight; the file"
    ):
        trainer.train()


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_parameter_that_is_unfrozen_on_resume_starts_as_in_a_new_optimizer(tmp_path: Path, name: str) -> None:
    """Fused SGD needs a momentum buffer for every parameter."""
    optimizer = {"type": name, "lr": 0.01, **({"momentum": 0.9} if name == "SGD" else {})}
    frozen = ToyModel()
    frozen.head.weight.requires_grad_(False)
    toy_trainer(tmp_path, model=frozen, optimizer=optimizer, epochs=1).train()
    trainer = toy_trainer(tmp_path, optimizer=optimizer, epochs=2, resume=True)
    trainer.train()
    assert trainer.iteration == trainer.max_iterations
    assert not torch.equal(trainer.module.head.weight, frozen.head.weight)


def test_a_key_error_of_an_optimizer_in_a_new_run_keeps_its_traceback(tmp_path: Path, monkeypatch) -> None:
    trainer = toy_trainer(tmp_path, epochs=1)

    def step(*args: Any) -> None:
        raise KeyError("mine")

    monkeypatch.setattr(trainer.optimizer, "step", step)
    with pytest.raises(KeyError, match="mine"):
        trainer.train()


def test_the_error_for_predicting_on_a_tensor_names_chordate_predict():
    with pytest.raises(ConfigError, match=r"takes a Batch, got Tensor; use chordate\.predict\(model, images\)"):
        detector().eval().predict(torch.zeros(1, 3, 64, 64))


def test_a_warning_is_logged_once_in_a_run(caplog) -> None:
    logger = logging.getLogger("chordate")
    for _ in range(2):  # a message appears once per run, not once per process
        with no_repeated_warnings():
            for _ in range(3):
                logger.warning("1 box clipped to the image (id 1)")
    assert [record.message for record in caplog.records] == ["1 box clipped to the image (id 1)"] * 2
