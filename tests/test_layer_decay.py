"""Layer-wise learning-rate decay: layers are counted as in timm and in the code of ConvNeXt's authors."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import chordate
from chordate.errors import ConfigError
from chordate.training.layer_decay import layer_scales
from chordate.training.optimizer import build_optimizer

ADAMW = {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05}


def classifier(backbone: Any, **head: Any) -> nn.Module:
    with torch.device("meta"):
        settings = {"type": "ImageClassifier", "backbone": backbone, "head": {"type": "ClassificationHead", **head}}
        return chordate.build_model(settings, num_classes=7, pretrained=False)


def weights_by_scale(groups: list[dict[str, Any]], key: str, unit: float) -> dict[tuple[int, float], int]:
    """The number of weights for each pair of learning-rate scale (as the exponent of 1/2) and weight decay."""
    counts: Counter[tuple[int, float]] = Counter()
    for group in groups:
        counts[round(-math.log2(group[key] / unit)), group["weight_decay"]] += sum(p.numel() for p in group["params"])
    return dict(counts)


@pytest.mark.parametrize(
    ("ours", "theirs", "head"),
    [("resnet18", "resnet18", {}), ("resnet50d", "resnet50d", {}), ("convnext_tiny", "convnext_tiny", {"norm": "LN"})],
)
def test_layer_decay_gives_timms_learning_rates_and_weight_decays(ours: str, theirs: str, head: dict[str, Any]) -> None:
    model = classifier(ours, **head)
    settings = {**ADAMW, "layer_decay": 0.5, "no_decay": ["norm", "bias", *(["*.gamma"] if head else [])]}
    groups = build_optimizer(model, settings, 1).param_groups
    with torch.device("meta"):
        reference = timm.create_model(theirs, num_classes=7)
    expected = param_groups_layer_decay(reference, weight_decay=0.05, layer_decay=0.5)
    assert weights_by_scale(groups, "lr", 1e-3) == weights_by_scale(expected, "lr_scale", 1)


def test_convnexts_layers_are_three_blocks_each() -> None:
    """In the authors' code, for (3, 3, 27, 3) blocks, stages 1, 2 and 4 are one layer each and stage 3 is nine layers;
    a downsampling module belongs to the stage after it; the stem is layer 0 and the head is layer 13."""
    scales = layer_scales(classifier("convnext_base"), 0.8, blocks=3)
    layers = {name: 13 - round(math.log(scale) / math.log(0.8)) for name, scale in scales.items()}
    wanted = {"stem": 0, "layer1": 1, "downsample2": 2, "layer2": 2, "downsample3": 3, "downsample4": 12, "layer4": 12}
    for name, layer in layers.items():
        part, number = name.split(".")[1:3]
        assert layer == (3 + int(number) // 3 if part == "layer3" else wanted[part]), name


def test_layers_of_a_custom_backbone_are_counted() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))
            self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()) for _ in range(2))
            self.norm = nn.LayerNorm(1)

    model = nn.Module()
    model.backbone, model.head = Custom(), nn.Linear(1, 1)
    assert layer_scales(model, 0.5) == {
        "backbone.token": 0.125,
        **dict.fromkeys(["backbone.stages.0.0.weight", "backbone.stages.0.0.bias"], 0.25),
        **dict.fromkeys(["backbone.stages.1.0.weight", "backbone.stages.1.0.bias"], 0.5),
        **dict.fromkeys(["backbone.norm.weight", "backbone.norm.bias"], 1.0),
    }


def test_learning_rate_multipliers_of_parts_and_layers_multiply_and_frozen_layers_count() -> None:
    model = classifier({"type": "resnet18", "frozen_stages": 1})
    settings = {**ADAMW, "layer_decay": 0.5, "parts": {"backbone": {"lr_mult": 0.1}}}
    learning_rates = {group["lr"] for group in build_optimizer(model, settings, 1).param_groups}
    assert sorted(learning_rates) == pytest.approx(sorted([1e-3, *(1e-4 * 0.5**i for i in range(1, 7))]))


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        (nn.Linear(2, 2), {"layer_decay": 0.5}, "has no sequence of blocks"),
        (nn.Linear(2, 2), {"layer_decay": 0}, "layer_decay must be > 0 or None, got 0"),
        (nn.Linear(2, 2), {"layer_decay": 0.5, "layer_blocks": 0}, "layer_blocks must be ≥ 1, got 0"),
    ],
)
def test_an_invalid_layer_decay_is_a_one_line_error(model: nn.Module, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_optimizer(model, {**ADAMW, **changed}, 1)
    assert "\n" not in str(error.value)
