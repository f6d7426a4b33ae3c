"""`--load-from` and `chordate.train` load a model from a checkpoint, even if its classes differ."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from class_folders import write_folders

import chordate
from chordate.cli.main import main
from chordate.config import load_config
from chordate.errors import ConfigError
from chordate.models.build import warn_about_frozen_stages

CONFIG = {
    "model": {
        "type": "ImageClassifier", "backbone": {"type": "resnet20_cifar", "out": ["c3"]},
        "head": {"type": "ClassificationHead"},
    },
    "optimizer": {"type": "SGD", "lr": 0.0},
    "train": {"iterations": 1, "tensorboard": False, "log_every": 1},
}  # fmt: skip


def config(folder: Path, **train: Any) -> dict[str, Any]:
    """Config of a small classifier with the data root's classes; its learning rate of 0 keeps the weights unchanged."""
    data = {"dataset": {"type": "TrainValFolder"}, "batch_size": 4, "workers": 0}
    data["pipeline"] = [{"type": "CenterCrop", "size": 16}]
    data = {split: {**data, "dataset": {"type": "TrainValFolder", "split": split}} for split in ("train", "val")}
    return {
        **CONFIG, "train_data": data["train"], "val_data": data["val"], "train": {**CONFIG["train"], **train},
    }  # fmt: skip


def write(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return path


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset with classes blue, green and red, and the checkpoint of a training run on it."""
    root = write_folders(tmp_path_factory.mktemp("colors"), {"train": 2, "val": 1})
    chordate.train(config(root, seed=1), data_root=root, work_dir=root / "run")
    return root, root / "run" / "iteration_1.pt"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A dataset with classes blue, red and sky: compared with `colors`, green is missing and sky is new."""
    write_folders(tmp_path, {"train": 2, "val": 1})
    for split in ("train", "val"):
        (tmp_path / split / "green").rename(tmp_path / split / "sky")
    return tmp_path


def state(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_rows_of_equal_class_names_are_kept_and_the_others_reinitialized(
    colors: tuple[Path, Path], other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(other / "classifier.py", config(other))
    arguments = ["--data-root", str(other), "--work-dir", str(other / "run"), "--load-from", str(colors[1])]
    assert main(["train", str(file), *arguments]) == 0
    before, after = state(colors[1]), state(other / "run/iteration_1.pt")
    assert before["meta"]["classes"] == ["blue", "green", "red"]
    assert after["meta"]["classes"] == ["blue", "red", "sky"]
    theirs, ours = before["model"]["head.fc.weight"], after["model"]["head.fc.weight"]
    assert torch.equal(ours[:2], theirs[[0, 2]])
    assert not any(torch.equal(ours[2], row) for row in theirs)
    trunk = [name for name in parameter_names(after) if name.startswith("backbone.")]
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in trunk)
    log = next((other / "run").glob("*/train.log")).read_text()
    assert str(colors[1]) in log and "(chordate)" in log
    assert log in capsys.readouterr().out


def parameter_names(checkpoint: dict[str, Any]) -> list[str]:
    """Names of the model's parameters, without BatchNorm's running statistics."""
    return [name for name in checkpoint["model"] if name.endswith((".weight", ".bias"))]


def test_load_from_may_be_set_in_the_config_and_is_ignored_on_resume(colors: tuple[Path, Path], other: Path) -> None:
    settings = {"data_root": other, "work_dir": other / "run", "resume": True}
    cfg = {**config(other, load_from=str(colors[1])), "optimizer": {"type": "SGD", "lr": 0.1}}
    trained = chordate.train(cfg, **settings).module.state_dict()
    assert not torch.equal(trained["backbone.conv1.weight"], state(colors[1])["model"]["backbone.conv1.weight"])
    cfg = config(other, load_from=str(colors[1]), iterations=2)
    resumed = chordate.train(cfg, **settings).module.state_dict()
    assert torch.equal(resumed["head.fc.weight"], trained["head.fc.weight"])


def test_resume_and_load_from_exclude_each_other(colors: tuple[Path, Path], other: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave out load_from=x\.pt"):
        chordate.train(config(other), data_root=other, work_dir=other / "run", resume=colors[1], load_from="x.pt")


def test_chordate_train_accepts_callbacks_and_returns_the_trainer(other: Path) -> None:
    """Callbacks in the config are used in addition to those passed to `chordate.train`."""
    cfg = {**config(other), "callbacks": [{"type": "CSVLogger"}]}
    more = [{"type": "JSONLogger", "file": "more.jsonl"}]
    trainer = chordate.train(cfg, data_root=other, work_dir=other / "run", callbacks=more)
    assert trainer.module.classes == ("blue", "red", "sky")
    assert (trainer.log_dir / "log.csv").is_file()
    lines = [json.loads(line) for line in (other / "run/more.jsonl").read_text().splitlines()]
    assert lines == trainer.history


def test_resuming_with_data_of_other_classes_is_a_one_line_error(colors: tuple[Path, Path], other: Path) -> None:
    with pytest.raises(chordate.ChordateError, match="trained on classes 3 .*green.* instead of 3 ") as error:
        chordate.train(config(other), data_root=other, work_dir=other / "run", resume=colors[1])
    assert "\n" not in str(error.value)


def log_of(run: Path) -> str:
    return sorted(run.glob("*/train.log"))[-1].read_text()


def test_the_log_has_a_table_of_loaded_weights_or_a_note_that_a_resumed_run_ignores_load_from(
    colors: tuple[Path, Path], other: Path
) -> None:
    settings = {"data_root": other, "work_dir": other / "run", "resume": True, "load_from": colors[1]}
    chordate.train(config(other), **settings)
    log = log_of(other / "run")
    assert re.search(r"backbone .*│ +\d+ ", log) and re.search(r"head.*│", log)
    assert "is not loaded" not in log and "tensors fit" not in log
    for folder in (other / "run").glob("*/"):
        folder.rename(other / folder.name)
    chordate.train(config(other, iterations=2), **settings)
    (line,) = [line for line in log_of(other / "run").splitlines() if str(colors[1]) in line]
    assert "INFO" in line and "is not loaded: the resumed checkpoint has the weights" in line


def test_a_warning_points_out_that_few_tensors_of_a_checkpoint_fit(
    colors: tuple[Path, Path], other: Path, tmp_path: Path
) -> None:
    weights = {name: value for name, value in state(colors[1])["model"].items() if name.startswith("head.")}
    torch.save(weights, tmp_path / "head.pt")
    chordate.train(config(other, load_from=str(tmp_path / "head.pt")), data_root=other, work_dir=other / "run")
    (line,) = [line for line in log_of(other / "run").splitlines() if "WARNING" in line]
    assert re.search(r"train\.load_from=.*head\.pt: only \d of the model's \d+ tensors fit", line)


def test_a_warning_says_how_to_train_frozen_stages_that_keep_random_weights(
    colors: tuple[Path, Path], other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(other)
    settings["model"] = {**CONFIG["model"], "backbone": {**CONFIG["model"]["backbone"], "frozen_stages": 1}}
    chordate.train(settings, data_root=other, work_dir=other / "random")
    (line,) = [line for line in log_of(other / "random").splitlines() if "WARNING" in line]
    assert "model.backbone: its frozen stages (frozen_stages=1) keep random weights" in line
    chordate.train(settings, data_root=other, work_dir=other / "loaded", load_from=colors[1])
    assert "random weights" not in log_of(other / "loaded")
    remedy = [word.partition("=") for word in line.partition("--cfg-options ")[2].split()]
    options = {name: {"False": False, "-1": -1}[value] for name, _, value in remedy}
    model = chordate.build_model(load_config(settings, options), num_classes=3)
    assert all(parameter.requires_grad for parameter in model.parameters())
    caplog.clear()
    warn_about_frozen_stages(model)
    assert not caplog.records
