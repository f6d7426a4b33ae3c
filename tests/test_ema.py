"""The exponential moving average (EMA) of the weights: its update rule, checkpoints and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from trainer_toy import ToyMetric, ToyModel, read_log, toy_loader, toy_trainer

from chordate.training.callbacks import Callback
from chordate.training.ema import WeightAverage
from chordate.training.evaluation_loop import evaluate
from chordate.training.trainer import Trainer
from chordate.weights.loading import load_checkpoint

CPU = torch.device("cpu")


def test_the_ema_follows_its_update_rule_with_a_smaller_decay_at_first() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    average = WeightAverage(model, 0.9)
    expected = model.weight.item()
    for iteration in range(1, 200):
        nn.init.constant_(model.weight, float(iteration))
        average.update(model, iteration)
        decay = min(0.9, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * iteration
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-12)


def test_the_ema_equals_torchs_averaged_model_with_the_same_decay() -> None:
    model = ToyModel()
    average = WeightAverage(model, 0.9)

    def lerp(averages: Any, values: Any, iteration: Any) -> None:
        decay = min(0.9, (1 + int(iteration)) / (10 + int(iteration)))
        for mine, theirs in zip(averages, values):
            mine.lerp_(theirs, 1 - decay) if mine.is_floating_point() else mine.copy_(theirs)

    reference = AveragedModel(model, multi_avg_fn=lerp, use_buffers=True)
    reference.n_averaged.fill_(1)  # otherwise the first update would overwrite the initial weights
    for iteration in range(1, 20):
        model.loss(next(iter(toy_loader())))["fit"].backward()  # updates BatchNorm's running statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(model, iteration)
        reference.update_parameters(model)
    for mine, theirs in zip(average.module.state_dict().values(), reference.module.state_dict().values()):
        assert torch.equal(mine, theirs)


def test_batchnorm_statistics_are_averaged_counters_copied_and_frozen_weights_unchanged() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).requires_grad_(False)
    average = WeightAverage(model, 0.5)
    model[0].running_mean.fill_(1.0)
    model[0].num_batches_tracked.fill_(7)
    average.update(model, 100)
    assert average.module[0].running_mean.tolist() == [0.5, 0.5]
    assert average.module[0].num_batches_tracked == 7
    assert torch.equal(average.module[1].weight, model[1].weight)


def test_the_ema_is_a_copy_without_gradients_that_training_does_not_change() -> None:
    model = ToyModel()
    average = WeightAverage(model, 0.9)
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    nn.init.zeros_(model.head.weight)
    assert average.module.head.weight.abs().sum() > 0


def test_training_evaluates_and_saves_the_ema(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []

    class RecordStates(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            states.append({name: value.clone() for name, value in trainer.module.state_dict().items()})

    loader = toy_loader(6, training=False)
    trainer = toy_trainer(
        tmp_path, val_loader=loader, metric=ToyMetric(), callbacks=[RecordStates()], iterations=3, ema=0.6
    )
    start = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    trainer.train()

    expected = start["head.weight"]
    for iteration, state in enumerate(states, 1):
        decay = min(0.6, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * state["head.weight"]
    saved = torch.load(tmp_path / "iteration_3.pt", weights_only=True)
    assert torch.allclose(saved["ema"]["head.weight"], expected, atol=1e-6)
    assert torch.equal(saved["model"]["head.weight"], states[-1]["head.weight"])

    averaged, raw = ToyModel(), ToyModel()
    load_checkpoint(averaged, tmp_path / "iteration_3.pt")
    raw.load_state_dict(saved["model"])
    scores = [evaluate(model, loader, ToyMetric(), device=CPU)["toy_AP"] for model in (averaged, raw)]
    assert read_log(tmp_path, "val")[0]["toy_AP"] == scores[0] != scores[1]


def test_an_ema_enabled_on_resume_starts_from_the_resumed_weights(tmp_path: Path) -> None:
    toy_trainer(tmp_path, iterations=2).train()
    trainer = toy_trainer(tmp_path, iterations=3, ema=0.999, resume=True)
    trainer.train()
    weights = torch.load(tmp_path / "iteration_2.pt", weights_only=True)["model"]["head.weight"]
    decay = (1 + 3) / (10 + 3)
    assert trainer.ema is not None
    expected = decay * weights + (1 - decay) * trainer.module.head.weight
    assert torch.allclose(trainer.ema.module.head.weight, expected, atol=1e-6)
