"""Learning-rate schedules against torch's schedulers, and the published schedules that configs cite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from chordate.config import load_config
from chordate.errors import ConfigError
from chordate.training.schedule import build_schedule


def torch_factors(make: Any, total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedulers, factors = make(optimizer), []
    for _ in range(total):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return factors


def test_warmup_and_steps_equal_torchs_linear_and_multistep() -> None:
    schedule = build_schedule(
        {"type": "step", "milestones": [30, 45], "gamma": 0.2, "warmup_iters": 20, "warmup_factor": 0.01}, 60, 1
    )
    expected = torch_factors(
        lambda o: [lr_scheduler.LinearLR(o, 0.01, 1.0, 20), lr_scheduler.MultiStepLR(o, [30, 45], 0.2)], 60
    )
    assert [schedule.factor(i) for i in range(60)] == pytest.approx(expected, rel=1e-9)


def test_cosine_after_warmup_equals_torchs_sequence() -> None:
    schedule = build_schedule({"type": "cosine", "min_factor": 0.1, "warmup_iters": 10, "warmup_factor": 0.5}, 60, 1)
    expected = torch_factors(
        lambda o: [
            lr_scheduler.SequentialLR(
                o,
                [lr_scheduler.LinearLR(o, 0.5, 1.0, 10), lr_scheduler.CosineAnnealingLR(o, 50, 0.1)],
                [10],
            )
        ],
        60,
    )
    assert [schedule.factor(i) for i in range(60)] == pytest.approx(expected, rel=1e-6)


@given(total=st.integers(1, 1000), warmup=st.integers(0, 1000), iteration=st.integers(0, 2000))
def test_cosine_factors_stay_between_the_minimum_and_1(total: int, warmup: int, iteration: int) -> None:
    schedule = build_schedule({"type": "cosine", "min_factor": 0.05, "warmup_iters": warmup}, total, 1)
    assert 0 < schedule.factor(iteration) <= 1
    if iteration >= warmup:
        assert schedule.factor(iteration) >= 0.05 - 1e-12


def test_milestones_in_epochs_become_iterations() -> None:
    schedule = build_schedule({"type": "step", "milestones": [8, 11]}, 12 * 7, 7)
    assert [schedule.factor(i) for i in (55, 56, 76, 77)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_a_constant_warmup_equals_torchs_constant_scheduler() -> None:
    schedule = build_schedule(
        {"type": "step", "milestones": [30], "warmup_iters": 20, "warmup_factor": 0.1, "warmup": "constant"}, 60, 1
    )
    expected = torch_factors(
        lambda o: [lr_scheduler.ConstantLR(o, 0.1, 20), lr_scheduler.MultiStepLR(o, [30], 0.1)], 60
    )
    assert [schedule.factor(i) for i in range(60)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("unit", [7, 1])
def test_a_warmup_in_epochs_equals_one_in_iterations(unit: int) -> None:
    """Covers schedules in epochs (`unit` is the iterations per epoch, 7) and in iterations (`unit` is 1)."""
    in_epochs = build_schedule({"type": "cosine", "warmup_epochs": 5}, 70, unit, 7)
    in_iterations = build_schedule({"type": "cosine", "warmup_iters": 35}, 70, unit, 7)
    assert [in_epochs.factor(i) for i in range(70)] == [in_iterations.factor(i) for i in range(70)]


def test_a_schedule_scales_the_initial_learning_rate_of_each_param_group() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [torch.zeros(1)], "initial_lr": 0.1}, {"params": [torch.zeros(1)], "initial_lr": 0.01}], lr=0.1
    )
    build_schedule({"type": "step", "milestones": [2]}, 4, 1).apply(optimizer, 3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.001])


def test_without_a_schedule_the_learning_rate_is_constant() -> None:
    assert {build_schedule(None, 10, 1).factor(i) for i in range(10)} == {1.0}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "cosin"}, 'did you mean "cosine"'),
        ({"type": "step", "milestone": [8]}, 'did you mean "milestones"'),
        ({"type": "cosine", "milestones": [8]}, 'unknown setting of schedule "milestones"'),
        ({"type": "step", "milestones": [11, 8]}, "increasing numbers, got"),
        (
            {"type": "step", "milestones": [8, 8]},
            "milestones must be a list of strictly increasing numbers, got [8, 8]",
        ),
        ({"type": "step", "warmup_iters": 0.5}, "warmup_iters must be an integer ≥ 0, got 0.5"),
        ({"type": "step", "warmup_iters": 5, "warmup_epochs": 1}, "either warmup_iters or warmup_epochs"),
        ({"type": "step", "warmup": "linaer"}, 'did you mean "linear"'),
    ],
)
def test_an_invalid_schedule_is_a_one_line_error(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_schedule(config, 10, 1)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


COCO_ITERATIONS = math.ceil(117266 / 16)  # train2017 has 117,266 images with annotations; batch size 16


@pytest.mark.parametrize(
    ("name", "epochs", "drops"),
    [("1x", 12, (8, 11)), ("3x", 36, (27, 33))],  # MMDetection's "1x" and "3x"
)
def test_the_coco_schedules_are_mmdetections(name: str, epochs: int, drops: tuple[int, int]) -> None:
    config = load_config(f"faster-rcnn_r50_fpn_{name}_coco").to_dict()
    total = epochs * COCO_ITERATIONS
    schedule = build_schedule(config["schedule"], total, COCO_ITERATIONS)
    assert config["train"]["epochs"] == epochs
    assert (config["optimizer"]["lr"], config["optimizer"]["base_batch_size"]) == (0.02, 16)
    learning_rates = [0.02 * schedule.factor(epoch * COCO_ITERATIONS + offset) for epoch in drops for offset in (-1, 0)]
    assert learning_rates == pytest.approx([0.02, 0.002, 0.002, 0.0002])
    assert 0.02 * schedule.factor(0) == pytest.approx(0.02 * 0.001)
    assert schedule.factor(499) < 1 == schedule.factor(500)


def test_poly_is_a_power_of_the_remaining_fraction_of_training():
    """Chen et al. 2018, DeepLab, section 4.1: (1 - iteration / total) ** 0.9."""
    schedule = build_schedule({"type": "poly", "power": 0.9}, 100, 1)
    assert [schedule.factor(i) for i in (0, 25, 50, 99)] == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.01**0.9])


def test_poly_with_a_minimum_is_mmsegmentations_formula():
    """(base rate - minimum) · (1 - iteration / end) ** power + minimum, as in mmengine's PolyLR."""
    ours = build_schedule({"type": "poly", "power": 0.9, "min_factor": 0.01}, 50, 1)
    expected = [(1e-2 - 1e-4) * (1 - iteration / 50) ** 0.9 + 1e-4 for iteration in range(51)]
    assert [0.01 * ours.factor(iteration) for iteration in range(51)] == pytest.approx(expected, rel=1e-9)
