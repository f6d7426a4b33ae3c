"""The loss log copies the losses of many iterations from the device at once; its error names the first NaN or Inf."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from trainer_toy import ToyMetric, ToyModel, read_log, toy_loader, toy_trainer

from chordate.errors import TrainingError
from chordate.model_contracts import total_loss
from chordate.training.callbacks import Callback
from chordate.training.loss_log import LossLog
from chordate.training.trainer import Trainer


def values(*numbers: float) -> dict[str, torch.Tensor]:
    return {f"loss{i}": torch.tensor(number) for i, number in enumerate(numbers)}


def test_a_logged_mean_is_over_the_values_since_the_last_logged_mean() -> None:
    log = LossLog()
    for number in (1.0, 2.0, 6.0):
        log.record(1, values(number))
    assert log.means() == {}  # no value is copied from the device before read()
    log.read()
    assert log.means() == {"loss0": 3.0}
    assert log.means() == {}


@given(bad=st.sets(st.integers(0, 39), min_size=1), kind=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_the_error_names_the_first_loss_that_is_not_finite(bad: set[int], kind: float) -> None:
    """Logs two losses in each of 20 iterations and reads them all at the end, as on a GPU."""
    log = LossLog()
    for iteration in range(20):
        numbers = [kind if 2 * iteration + place in bad else 1.0 for place in range(2)]
        log.record(iteration + 1, values(*numbers), [100 + iteration, 200 + iteration])
    iteration, place = divmod(min(bad), 2)
    with pytest.raises(TrainingError) as error:
        log.read()
    assert f"loss{place} is {kind} in iteration {iteration + 1}, images [{100 + iteration}, {200 + iteration}]" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_a_value_that_is_not_guarded_may_be_infinite() -> None:
    log = LossLog()
    log.record(1, {"grad_norm": torch.tensor(math.inf)}, guarded=False)
    log.read()
    assert log.means() == {"grad_norm": math.inf}


def test_a_flag_is_read_together_with_the_losses() -> None:
    log = LossLog()
    log.record(1, values(1.0))
    assert log.read(flag=True)
    log.record(2, values(1.0))
    assert not log.read(flag=False)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([torch.tensor(1.0)], "dict of losses, not list"),
        ({}, "dict of losses, not an empty dict"),
        ({"fit": torch.ones(3)}, '"fit" is not a scalar tensor but [3]'),
        ({"fit": 1.0}, '"fit" is not a scalar tensor but float'),
    ],
)
def test_a_model_without_scalar_losses_is_refused(losses: Any, message: str) -> None:
    with pytest.raises(TrainingError) as error:
        total_loss(losses)
    assert message in str(error.value)


def test_a_loss_without_a_gradient_counts_in_the_total_but_has_no_gradient() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    total = total_loss({"fit": weight * 3, "error": torch.tensor(5.0)})
    total.backward()
    assert total.item() == 6 and weight.grad == 3


def batch_with(image: int) -> tuple[int, list[int]]:
    """The iteration in the first epoch whose batch contains `image`, and the indices of all images of that batch."""
    sampler = toy_loader().batch_sampler
    sampler.set_epoch(0)
    for iteration, batch in enumerate(sampler, 1):
        if image in [index for _, index in batch]:
            return iteration, [index for _, index in batch]
    raise AssertionError(image)


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_nan_loss_stops_the_run_before_its_iteration_is_saved(tmp_path: Any, log_every: int) -> None:
    iteration, images = batch_with(5)
    trainer = toy_trainer(tmp_path, loader=toy_loader(bad=5), save_every_iterations=1, log_every=log_every)
    with pytest.raises(TrainingError) as error:
        trainer.train()
    assert f"fit is nan in iteration {iteration}, images {images}" in str(error.value)
    if iteration > 1:
        saved = torch.load(tmp_path / f"iteration_{iteration - 1}.pt", weights_only=True)
        assert all(weight.isfinite().all() for weight in saved["model"].values())
    assert not (tmp_path / f"iteration_{iteration}.pt").exists()


def test_an_error_that_follows_from_a_nan_is_reported_as_the_nan(tmp_path: Any) -> None:
    """Simulates a GPU, where a NaN may cause another error in a later iteration before the NaN loss is read."""

    class Failing(ToyModel):
        def loss(self, batch: Any) -> Any:
            raise IndexError("index out of range")

    trainer = toy_trainer(tmp_path, model=Failing())
    trainer.losses.record(7, {"fit": torch.tensor(math.nan)}, [3, 4])
    with pytest.raises(TrainingError, match=r"fit is nan in iteration 7, images \[3, 4\]"):
        trainer.train()

    with pytest.raises(IndexError):
        toy_trainer(tmp_path, model=Failing()).train()


def test_weights_that_are_not_finite_are_not_saved_even_if_the_losses_are_finite(tmp_path: Any) -> None:
    class Poison(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            nn.init.constant_(trainer.module.head.bias, math.inf)

    trainer = toy_trainer(tmp_path, callbacks=[Poison()], iterations=1)
    with pytest.raises(TrainingError, match=r"head\.bias has a NaN or Inf after iteration 1"):
        trainer.train()
    assert not list(tmp_path.glob("*.pt"))


def test_the_log_keeps_every_loss_at_full_precision(tmp_path: Any) -> None:
    fits: list[float] = []

    class RecordLosses(Callback):
        def on_step_end(self, trainer: Trainer, losses: Any) -> None:
            fits.append(losses["fit"].item())

    toy_trainer(tmp_path, callbacks=[RecordLosses()], epochs=1).train()
    assert [line["fit"] for line in read_log(tmp_path)] == fits


def test_losses_are_read_before_an_evaluation(tmp_path: Any) -> None:
    trainer = toy_trainer(
        tmp_path, loader=toy_loader(bad=5), val_loader=toy_loader(4, training=False), metric=ToyMetric(),
        iterations=6, eval_every=6, log_every=100,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="fit is nan"):
        trainer.train()
    assert not (tmp_path / "log.jsonl").exists() or read_log(tmp_path, "val") == []
