"""A checkpoint without class names is evaluated with those of the evaluation data, if the numbers of classes agree."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from class_folders import COLORS, write_folders

from chordate.cli.main import main

CONFIG = """
base = "resnet50_finetune_folder"
{fallback}
model = dict(backbone=dict(type="resnet18", pretrained=None, frozen_stages=0))
val_data = dict(
    dataset=dict(type="ImageFolder", images="val", _delete_=True),
    pipeline=[dict(type="Resize", size=[32, 32])], workers=0,
)
"""
FALLBACKS = ["fallback_meta = None", "fallback_meta = dict(classes='imagenet')"]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A checkpoint of torchvision's ResNet-18, which always predicts the second of three classes."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=len(COLORS))
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    torch.save(model.state_dict(), tmp_path / "foreign.pth")
    return tmp_path / "foreign.pth"


def run_test(tmp_path: Path, checkpoint: Path, fallback: str) -> int:
    (tmp_path / "config.py").write_text(CONFIG.format(fallback=fallback))
    arguments = ["--data-root", str(tmp_path), "--predictions", str(tmp_path / "p.json")]
    return main(["test", str(tmp_path / "config.py"), str(checkpoint), *arguments])


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_foreign_classifier_has_the_classes_of_the_folders(tmp_path, foreign, capsys, fallback) -> None:
    write_folders(tmp_path, {"val": 2})
    assert run_test(tmp_path, foreign, fallback) == 0
    assert "foreign.pth has no class names; its 3 classes are named by the evaluation data" in capsys.readouterr().out
    predictions = json.loads((tmp_path / "p.json").read_text())
    assert [row["classes"][0]["class"] for row in predictions] == ["green"] * 6
    assert sorted({row["class"] for row in predictions}) == ["blue", "green", "red"]


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_different_number_of_classes_is_a_one_line_error(tmp_path, foreign, capsys, fallback) -> None:
    for name in ("blue", "green"):
        write_folders(tmp_path / "all", {"val": 1})
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "all/val" / name).rename(tmp_path / "val" / name)
    assert run_test(tmp_path, foreign, fallback) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "foreign.pth has no class names, and does not fit a model for the 2 classes of the evaluation data" in line
