"""`chordate summary` against table 1 of the ResNet paper (He et al. 2016) and torchvision's own counts."""

import pytest
import torch
import torchvision

from chordate.api import build_backbone
from chordate.cli.main import main
from chordate.cli.summary import classifier, multiply_adds

# depth: (parameters / M as torchvision publishes them, multiply-adds / G as the paper's table 1 prints them)
TABLE = {18: (11.7, 1.8), 34: (21.8, 3.6), 50: (25.6, 3.8), 101: (44.5, 7.6), 152: (60.2, 11.3)}
ROUNDING = 0.05  # the tables print one decimal


@pytest.mark.parametrize("depth", TABLE)
def test_resnets_have_the_papers_size(depth):
    parameters, flops = TABLE[depth]
    style = {"style": "caffe"} if depth >= 50 else {}  # the paper's stride is in the first 1×1
    with torch.device("meta"):
        model = classifier(build_backbone(f"resnet{depth}", **style))
    counted = sum(p.numel() for p in model.parameters()) / 1e6
    assert counted == pytest.approx(parameters, abs=0.01 * parameters)
    assert multiply_adds(model, (224, 224)) / 1e9 == pytest.approx(flops, abs=0.01 * flops + ROUNDING)


@pytest.mark.parametrize("depth", TABLE)
def test_v15_counts_are_torchvisions(depth):
    weights = torchvision.models.get_model_weights(f"resnet{depth}").DEFAULT
    with torch.device("meta"):
        model = classifier(build_backbone(f"resnet{depth}"))
    assert sum(p.numel() for p in model.parameters()) == weights.meta["num_params"]
    assert multiply_adds(model, (224, 224)) / 1e9 == pytest.approx(weights.meta["_ops"], abs=0.001)


def test_summary_prints_an_aligned_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["summary", "resnet18", "resnet50"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│ resnet")]
    assert "11.69" in lines[0] and "25.56" in lines[1]
    assert "c5:2048/32" in lines[1]
    assert len({tuple(i for i, c in enumerate(line) if c == "│") for line in lines}) == 1


def test_summary_of_an_unknown_name_answers_with_near_ones(capsys):
    assert main(["summary", "resnet51"]) == 2
    assert 'unknown backbone or model "resnet51"; did you mean' in capsys.readouterr().err
