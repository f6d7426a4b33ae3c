"""Training on two ranks (gloo on the CPU) equals one process with the total batch size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_ranks
from torch import nn
from trainer_ranks import TRAINING, fresh_model, report
from trainer_toy import ToyMetric, read_log, toy_loader, toy_trainer

from chordate.errors import ConfigError
from chordate.launch import is_launched, slurm_environment, start
from chordate.training.evaluation_loop import evaluate
from chordate.training.prepare import find_unused_parameters


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder with the work dirs of the runs on two ranks, and the results that each rank reported."""
    folder = tmp_path_factory.mktemp("ranks")
    assert run_ranks(report, folder) == [0, 0]
    return folder, json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of the run `plain` of `ranks`, but in one process with the total batch size."""
    folder = tmp_path_factory.mktemp("alone")
    toy_trainer(folder, model=fresh_model(), loader=toy_loader(24, 4), **TRAINING).train()
    return folder


def test_each_process_has_the_launchers_rank(ranks: Any) -> None:
    assert [(reports["rank"], reports["world_size"]) for reports in ranks[1]] == [(0, 2), (1, 2)]


def test_gradients_averaged_over_ranks_train_the_same_weights(ranks: Any, alone: Path) -> None:
    a, b = (torch.load(folder / "epoch_2.pt", weights_only=True) for folder in (ranks[0] / "plain", alone))
    for part in ("model", "ema"):
        for name, weight in a[part].items():
            assert torch.allclose(weight, b[part][name], atol=1e-6), name


def test_logged_losses_and_learning_rates_are_those_of_the_total_batch(ranks: Any, alone: Path) -> None:
    """The loss is averaged over the ranks, and the learning rate is scaled to the total batch size."""
    a, b = read_log(ranks[0] / "plain"), read_log(alone)
    assert len(a) == len(b) == 6
    for one, other in zip(a, b):
        assert one.pop("mode") == other.pop("mode")
        assert one == pytest.approx(other, rel=1e-4)


def test_parameters_without_a_gradient_block_no_rank(ranks: Any) -> None:
    assert read_log(ranks[0] / "idle") == read_log(ranks[0] / "plain")
    a, b = (torch.load(ranks[0] / name / "epoch_2.pt", weights_only=True)["model"] for name in ("idle", "plain"))
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert set(a) - set(b) == {"idle.weight", "idle.bias"}


def test_parameters_without_a_gradient_are_named_and_the_model_is_unchanged() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2), nn.Linear(2, 2))
    model[3].requires_grad_(False)  # DDP expects no gradient of frozen parameters
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert find_unused_parameters(model, lambda: model[:3](torch.ones(4, 2)).sum()) == ["4.weight", "4.bias"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_one_checkpoint_evaluates_to_the_same_numbers_and_counts_each_image_once(ranks: Any) -> None:
    folder, reports = ranks
    model = fresh_model()
    model.load_state_dict(torch.load(folder / "plain" / "epoch_2.pt", weights_only=True)["model"])
    expected = evaluate(model, toy_loader(7, 2, training=False), ToyMetric(), device=torch.device("cpu"))
    assert reports[0]["metrics"] == reports[1]["metrics"]
    assert reports[0]["metrics"] == pytest.approx(expected, rel=1e-6)
    assert (expected["toy_images"], expected["toy_most"]) == (7, 1)


def test_a_resume_restores_the_random_numbers_of_every_rank(ranks: Any) -> None:
    folder, reports = ranks
    assert read_log(folder / "whole") == read_log(folder / "resumed")
    assert len(read_log(folder / "whole")) == 18
    assert reports[0]["draw"] != reports[1]["draw"]  # each rank has its own random numbers


def test_ranks_with_different_checkpoints_do_not_resume(ranks: Any) -> None:
    assert all("different checkpoints (epoch_2.pt, none)" in reports["resume"] for reports in ranks[1])


@pytest.mark.parametrize(("name", "part"), [("norm", "model"), ("norm_ema", "ema")])
def test_logged_metrics_are_those_of_the_saved_model_though_batchnorm_saw_other_images_on_each_rank(
    ranks: Any, name: str, part: str
) -> None:
    folder, reports = ranks
    assert reports[0][name] == reports[1][name]
    logged = read_log(folder / name, "val")
    for epoch in (1, 2):
        model = fresh_model(norm=True)
        model.load_state_dict(torch.load(folder / name / f"epoch_{epoch}.pt", weights_only=True)[part])
        expected = evaluate(model, toy_loader(7, 2, training=False), ToyMetric(), device=torch.device("cpu"))
        assert {key: logged[epoch - 1][key] for key in expected} == pytest.approx(expected, rel=1e-6)


def test_saved_batchnorm_statistics_are_the_mean_over_the_ranks(ranks: Any) -> None:
    """After one step: 0.9 × the initial statistics + 0.1 × the mean over the ranks' batches."""
    saved = torch.load(ranks[0] / "one_step" / "iteration_1.pt", weights_only=True)["model"]
    means, variances = [], []
    for rank in range(2):
        loader = toy_loader(24, 2, rank=rank, world_size=2)
        loader.start_epoch(0)
        with torch.no_grad():
            features = fresh_model(norm=True).backbone[0](next(iter(loader)).images.float() / 255)
        means.append(features.mean((0, 2, 3)))
        variances.append(features.var((0, 2, 3)))
    assert torch.allclose(saved["backbone.1.running_mean"], 0.1 * (means[0] + means[1]) / 2, atol=1e-6)
    assert torch.allclose(saved["backbone.1.running_var"], 0.9 + 0.1 * (variances[0] + variances[1]) / 2, atol=1e-6)
    assert not torch.allclose(means[0], means[1], atol=1e-4)


def test_a_nan_on_one_rank_stops_all_and_is_named_by_all(ranks: Any) -> None:
    reports = ranks[1]
    assert reports[0]["nan"] == reports[1]["nan"]
    assert "fit is nan in iteration 4 on rank 1, images [" in reports[0]["nan"]
    assert str(reports[0]["bad"]) in reports[0]["nan"].split("[")[1].split("]")[0].split(", ")


def test_broken_images_of_all_ranks_are_counted_in_training_and_evaluation(ranks: Any) -> None:
    assert [reports["reads"] for reports in ranks[1]] == [1, 1]
    (log,) = (ranks[0] / "broken").glob("*/train.log")
    lines = [line for line in log.read_text().splitlines() if "broken" in line and "WARNING" in line]
    assert sorted(line.split("WARNING ")[1] for line in lines) == [
        f"2 of 24 samples are broken and were skipped, the first: {index}.jpg: broken" for index in (2, 6)
    ]


def test_synchronized_batchnorm_on_the_cpu_is_refused(ranks: Any) -> None:
    assert "SyncBN over several processes needs GPUs" in ranks[1][0]["sync_bn"]


def test_only_the_first_rank_writes(ranks: Any) -> None:
    assert len(read_log(ranks[0] / "plain")) == 6  # there would be 12 records if both ranks wrote
    assert len(list((ranks[0] / "plain").glob("*/*.log"))) == 1


def test_slurm_tasks_become_ranks() -> None:
    environment = {
        "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456",
        "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    }  # fmt: skip
    found = slurm_environment(environment)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("5", "8", "1", "4")
    assert found["MASTER_ADDR"] == "gpu07"
    assert 1024 < int(found["MASTER_PORT"]) < 65536
    assert slurm_environment({**environment, "MASTER_PORT": "29500"})["MASTER_PORT"] == "29500"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"},  # in a batch script, outside srun
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"RANK": "0", "SLURM_STEP_NUM_TASKS": "8"},  # torchrun inside a SLURM job
    ],
)
def test_other_processes_are_no_slurm_tasks(environment: dict[str, str]) -> None:
    assert slurm_environment(environment) == {}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("gpu[07-09,12],login", "gpu07"),
        ("a-b-[3,5]", "a-b-3"),
        ("rack1,rack2", "rack1"),
        ("n[1-2].cluster", "n1.cluster"),
    ],
)
def test_the_first_machine_of_a_slurm_list_is_the_master(nodes: str, host: str) -> None:
    task = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": nodes,
        "SLURM_JOB_ID": "7",
    }  # fmt: skip
    assert slurm_environment(task)["MASTER_ADDR"] == host


LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, {"LOCAL_RANK": "0"}])
def test_a_process_without_a_launcher_runs_alone(environment: dict[str, str]) -> None:
    assert not is_launched(environment)


@pytest.mark.parametrize(
    ("environment", "reports"),
    [
        ({"RANK": "0"}, "RANK is set, but not WORLD_SIZE, LOCAL_RANK"),
        ({"WORLD_SIZE": "8"}, "WORLD_SIZE is 8, but RANK is not set"),
        ({**LAUNCHED, "RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({**LAUNCHED, "RANK": "first"}, 'RANK is "first"'),
        ({**LAUNCHED, "MASTER_PORT": "-1"}, 'MASTER_PORT is "-1"'),
    ],
)
def test_invalid_launcher_variables_are_named(environment: dict[str, str], reports: str) -> None:
    assert is_launched(LAUNCHED)
    with pytest.raises(ConfigError, match=reports):
        is_launched(environment)


@pytest.mark.parametrize(
    ("changed", "reports"),
    [
        ({"SLURM_PROCID": None}, "not SLURM_PROCID"),
        ({"SLURM_JOB_ID": "x"}, 'SLURM_JOB_ID is "x"'),
        ({"SLURM_STEP_NUM_TASKS": "many"}, 'SLURM_STEP_NUM_TASKS is "many"'),
    ],
)
def test_invalid_slurm_variables_are_named(changed: dict[str, str | None], reports: str) -> None:
    task = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "n1",
        "SLURM_JOB_ID": "7",
    }  # fmt: skip
    assert slurm_environment(task)["RANK"] == "0"
    broken = {name: value for name, value in {**task, **changed}.items() if value is not None}
    with pytest.raises(ConfigError, match=reports):
        slurm_environment(broken)


def test_processes_that_cannot_connect_name_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any) -> None:
        raise torch.distributed.DistNetworkError("timed out")

    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.distributed.init_process_group", nobody)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=r"MASTER_ADDR:MASTER_PORT, localhost:29500 \(timed out\)"):
        start()
