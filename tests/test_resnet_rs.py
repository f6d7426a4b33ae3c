"""ResNet-RS against timm's, and the paper's table of parameters and FLOPs."""

import pytest
import timm
import torch
from backbone_referee import (
    assert_same_maps,
    assert_same_names_and_shapes,
    assert_same_step,
    extractor,
    on_meta,
    referee,
    size,
    slow,
    with_weights_of,
)
from resnet_rs_recipes import RECIPES

from chordate.backbones.resnet_variants import RESNET_RS_DEPTHS as DEPTHS
from chordate.contracts import check_outputs

MAPS = {"act1": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}


@pytest.mark.parametrize("depth", [DEPTHS[0], *slow(*DEPTHS[1:])])
def test_feature_maps_and_a_training_step_of_resnet_rs_are_timms(depth):
    torch.manual_seed(0)
    theirs = referee(lambda: timm.create_model(f"resnetrs{depth}"))
    ours = with_weights_of(theirs, f"resnetrs{depth}", out=list(MAPS.values()))
    assert_same_maps(ours, extractor(theirs, MAPS), torch.randn(1, 3, 75, 97), tolerance=1e-5)
    # Both run the same operations, so float32 is precise enough.
    assert_same_step(ours, extractor(theirs, {"layer4": "c5"}), torch.randn(2, 3, 40, 40), dtype=torch.float32)


@pytest.mark.parametrize("depth", [50, *slow(101, 152, 200, 270, 350, 420)])
def test_every_resnet_rs_depth_has_timms_parameter_names_and_the_declared_channels(depth):
    ours = on_meta(f"resnetrs{depth}", out=list(MAPS.values()))
    with torch.device("meta"):
        assert_same_names_and_shapes(ours, timm.create_model(f"resnetrs{depth}"))
    check_outputs(ours)
    assert ours.name == f"ResNet-RS-{depth}"


# Bello et al. 2021, the table of ResNet-RS: depth, image size, parameters in millions, FLOPs in billions (a
# multiply-add counts as two).
SMALLER = [(50, 160, 36, 4.6)]
LARGER = [
    (101, 160, 64, 8.4),
    (101, 192, 64, 12),
    (152, 192, 87, 18),
    (152, 224, 87, 24),
    (152, 256, 87, 31),
    (200, 256, 93, 40),
    (270, 256, 130, 54),
    (350, 256, 164, 69),
    (350, 320, 164, 107),
    (420, 320, 192, 128),
]


@pytest.mark.parametrize(
    ("depth", "image_size", "millions", "billions"),
    [*SMALLER, *(pytest.param(*row, marks=pytest.mark.slow) for row in LARGER)],
)
def test_parameters_and_flops_are_the_papers(depth, image_size, millions, billions):
    parameters, multiply_adds = size(f"resnetrs{depth}", image_size)
    assert round(parameters) == millions
    assert 2 * multiply_adds == pytest.approx(billions, abs=0.05 if billions < 10 else 0.51)


def test_every_row_of_the_resnet_rs_table_has_a_recipe():
    assert [(depth, recipe.image_size) for depth in DEPTHS for recipe in RECIPES[depth]] == [
        row[:2] for row in SMALLER + LARGER
    ]
    regularization = [tuple(recipe[1:]) for depth in DEPTHS for recipe in RECIPES[depth]]
    assert regularization == sorted(regularization)  # larger networks have equal or stronger regularization
