"""Invalid values in `train`, `optimizer`, `schedule` and `train_data` raise one-line errors without a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trainer_toy import OPTIMIZER, ToyModel, read_log, toy_loader, toy_trainer

from chordate.arguments import OpenFraction, validate_value
from chordate.config import load_config, section
from chordate.data.loader import build_dataset
from chordate.errors import ConfigError, DataError
from chordate.training.run import train
from chordate.training.settings import TrainSettings
from chordate.training.trainer import Trainer

GOOD = {"train": {"iterations": 1, "tensorboard": False}, "optimizer": OPTIMIZER, "schedule": None}
COSINE, STEP = {"type": "cosine"}, {"type": "step", "milestones": [1]}


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        *(
            ("train", {key: value}, f"train.{key}")
            for key, values in {
                "clip_norm": ("abc", [1], float("nan"), True),
                "ema": ("abc", 1, 0, {}),
                "accumulate": (None, "2", 1.0),
                "log_every": (None, 0),
                "seed": (None, -1, "abc"),
                "keep": (0, "abc"),
                "iterations": ("abc", 0.5),
                "amp": ([], True),
                "compile": ("abc", None, 1, {"backnd": "eager"}),
                "channels_last": ("yes", None, 1),
                "save_best": (1,),
            }.items()
            for value in values
        ),
        *(
            ("optimizer", {key: value}, f"optimizer.{key}")
            for key, values in {
                "lr": ("abc", None, -1, float("inf")),
                "base_batch_size": (0, "abc", 2.5),
                "weight_decay": ("x", None, -0.1),
                "no_decay": ("norm", [1]),
                "parts": ("x", [1], {"backbone": "x"}, {"backbone": None, "nothing": {}}),
            }.items()
            for value in values
        ),
        ("optimizer", {"parts": {"backbone": {"lr_mult": "x"}}}, "optimizer.parts.backbone.lr_mult"),
        ("optimizer", {"type": 3}, "optimizer"),
        ("optimizer", {"type": None}, "optimizer"),
        ("optimizer", {"momentum": "x"}, "optimizer"),
        ("schedule", {**COSINE, "min_factor": "x"}, "schedule.min_factor"),
        ("schedule", {**COSINE, "warmup_factor": "x"}, "schedule.warmup_factor"),
        ("schedule", {**COSINE, "warmup_iters": True}, "schedule.warmup_iters"),
        ("schedule", {**STEP, "gamma": "x"}, "schedule.gamma"),
        ("schedule", {**STEP, "milestones": 8}, "schedule.milestones"),
        ("schedule", {**STEP, "milestones": ["x"]}, "schedule.milestones"),
        ("schedule", {"type": []}, "schedule"),
        ("train", "x", "train"),
        ("optimizer", "x", "optimizer"),
        ("schedule", "x", "schedule"),
        ("schedule", [1], "schedule"),
    ],
    ids=str,
)
def test_a_setting_of_the_wrong_type_is_a_one_line_error(
    tmp_path: Path, section: str, changes: Any, message: str
) -> None:
    value = {**(GOOD[section] or {}), **changes} if isinstance(changes, dict) else changes
    with pytest.raises(ConfigError) as error:
        Trainer(ToyModel(), toy_loader(), work_dir=tmp_path, **{**GOOD, section: value}).train()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": True}, "train_data.batch_size must be an integer ≥ 1"),
        ({"batch_size": 0}, "train_data.batch_size"),
        ({"workers": "two"}, "train_data.workers must be an integer ≥ 0"),
        ({"group_by_aspect": "no"}, "train_data.group_by_aspect must be True or False"),
        *(({"class_balanced": value}, "train_data.class_balanced") for value in (True, "yes", -0.1, 0)),
        ({"pipeline": None}, "train_data.pipeline must be a list"),
        ({"pipeline": {"type": "RandomCrop"}}, "train_data.pipeline must be a list"),
        ({"dataset": {"type": "CocoDataset", "classes": "cat"}}, "classes must be a list"),
    ],
    ids=str,
)
def test_a_loader_setting_of_the_wrong_type_is_refused_before_data_is_read(changes: Any, message: str) -> None:
    data = {"dataset": {"type": "CocoDataset", "annotations": "nothing.json", "images": "nowhere"}}
    with pytest.raises(ConfigError, match=message):
        build_dataset({**data, **changes}, data_root="nowhere", training=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.lr": -1}, "optimizer.lr must be ≥ 0, got -1"),
        ({"optimizer.type": "SDG"}, 'optimizer: unknown optimizer "SDG"; did you mean "SGD"'),
        ({"optimizer.momentun": 0.9}, 'optimizer: unknown setting of SGD "momentun"; did you mean "momentum"'),
        ({"schedule.type": "steps"}, 'schedule: unknown schedule "steps"; did you mean "step"'),
        ({"schedule.milestones": [3, 2]}, "schedule.milestones must be a list of strictly increasing numbers"),
        ({"val_data.batch_size": 0}, "val_data.batch_size must be ≥ 1, got 0"),
        ({"val_data.pipeline": ["RandomFlp"]}, 'val_data.pipeline.0: unknown transform "RandomFlp"'),
        ({"callbacks": ["EarlyStoping"]}, 'callbacks.0: unknown callback "EarlyStoping"'),
    ],
    ids=str,
)
def test_settings_are_checked_before_the_data_are_read(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chordate.training.run.build_dataset", lambda *_, **__: pytest.fail("data are read"))
    with pytest.raises(ConfigError) as error:
        train(load_config("faster-rcnn_r50_fpn_1x_coco", changes), work_dir=tmp_path)
    assert str(error.value).startswith(f"--cfg-options: {message}")


@pytest.mark.parametrize(
    ("length", "warning"),
    [
        ({"train.epochs": 12}, None),
        ({"train.epochs": 11}, "schedule.milestones: 11 will not be reached, since train.epochs=11"),
        ({"train.epochs": 1}, "schedule.milestones: 8, 11 will not be reached, since train.epochs=1"),
        (
            {"train.epochs": None, "train.iterations": 90, "schedule.milestones": [60, 600]},
            "schedule.milestones: 600 will not be reached, since train.iterations=90",
        ),
    ],
)
def test_milestones_after_the_end_of_training_are_reported(
    length: dict[str, Any], warning: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError):  # there is no dataset
        train(load_config("faster-rcnn_r50_fpn_1x_coco", length), data_root=tmp_path, work_dir=tmp_path / "run")
    lines = [line for line in capsys.readouterr().out.splitlines() if "not be reached" in line]
    assert len(lines) == (warning is not None) and all(line.endswith(f"WARNING {warning}") for line in lines)


def test_none_is_allowed_for_optional_settings(tmp_path: Path) -> None:
    optional = ("epochs", "keep", "amp", "clip_norm", "ema", "eval_every", "save_every", "save_best")
    optimizer = {**OPTIMIZER, "base_batch_size": None, "parts": None, "no_decay": None}
    toy_trainer(tmp_path, optimizer=optimizer, iterations=1, **dict.fromkeys(optional)).train()
    assert (tmp_path / "iteration_1.pt").exists()


@pytest.mark.parametrize(("value", "good"), [(1, True), (0, False), (0.5, True), (2, False), (1.999, True)])
def test_exclusive_bounds_exclude_the_bound_itself(value: float, good: bool) -> None:
    if good:
        validate_value(OpenFraction, value / 2, "x")
    else:
        with pytest.raises(ConfigError, match="x must be > 0 and < 1, got"):
            validate_value(OpenFraction, value / 2, "x")


@pytest.mark.parametrize("train", ["epochs=3, iterations=5", "seed=1"])
def test_the_error_for_an_ambiguous_training_length_names_file_and_section(tmp_path: Path, train: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"train = dict({train})\n")
    with pytest.raises(ConfigError) as error:
        TrainSettings.from_config(section(load_config(path), "train"))
    assert str(error.value).startswith(f"{path}: train: set either epochs or iterations")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("old", "new"), [("epochs=3", "iterations=5"), ("iterations=5", "epochs=3")])
def test_a_length_in_another_unit_replaces_the_inherited_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str, new: str
) -> None:
    (tmp_path / "base.py").write_text(f"train = dict({old}, seed=3)\n")
    (tmp_path / "mine.py").write_text(f'_base_ = "base.py"\ntrain = dict({new})\n')
    (name, _), (unit, value) = old.split("="), new.split("=")
    for config, options in (("base.py", {f"train.{unit}": int(value)}), ("mine.py", {})):
        caplog.clear()
        settings = TrainSettings.from_config(section(load_config(tmp_path / config, options), "train"))
        assert (getattr(settings, unit), getattr(settings, name), settings.seed) == (int(value), None, 3)
        assert f"train.{new} replaces train.{old}; eval_every, save_every and the milestones" in caplog.text


def test_more_accumulated_batches_than_an_epoch_has_are_one_step_per_epoch(tmp_path: Path) -> None:
    for accumulate in (6, 2**70):
        toy_trainer(tmp_path / str(accumulate), accumulate=accumulate, epochs=2).train()
    assert read_log(tmp_path / "6") == read_log(tmp_path / str(2**70))
