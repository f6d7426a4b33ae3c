"""Squeeze-and-excitation networks against timm's, and the paper's tables and equation."""

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
    with_weights_of,
)

from chordate.backbones.senet import VARIANTS
from chordate.contracts import check_outputs

MAPS = {"act1": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["seresnet18", "seresnet50", "seresnext50_32x4d", "seresnext101_32x4d"])
def test_maps_are_timms(name):
    theirs = referee(lambda: timm.create_model(name))
    ours = with_weights_of(theirs, name, out=list(MAPS.values()))
    assert_same_maps(ours, extractor(theirs, MAPS), torch.randn(2, 3, 65, 96), tolerance=1e-5)


@pytest.mark.parametrize("name", ["seresnet18", "seresnet50"])
def test_a_training_step_is_timms(name):
    theirs = referee(lambda: timm.create_model(name))
    ours = with_weights_of(theirs, name, out=["c5"])
    assert_same_step(ours, extractor(theirs, {"layer4": "c5"}), torch.randn(2, 3, 40, 40))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_has_timms_names_and_keeps_its_promise(name):
    ours = on_meta(name, out=list(MAPS.values()))
    with torch.device("meta"):
        assert_same_names_and_shapes(ours, timm.create_model(name))
    check_outputs(ours)
    assert ours.name.startswith("SE-ResNe")


@pytest.mark.parametrize(
    ("reduction", "millions"), [(2, 45.7), (4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9)], ids="reduction={}".format
)
def test_parameters_by_reduction_are_the_papers(reduction, millions):
    """Hu et al. 2018, table 10 (SE-ResNet-50), within its rounding."""
    assert size("resnet50", se=1 / reduction)[0] == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(("depth", "billions", "with_se"), [(50, 3.86, 3.87), (101, 7.58, 7.60), (152, 11.30, 11.32)])
def test_multiply_adds_are_the_papers(depth, billions, with_se):
    """Hu et al. 2018, table 2: of networks with the stride in the first 1×1."""
    name = f"resnet{depth}_caffe"
    assert size(name)[1] == pytest.approx(billions, rel=2e-3)
    assert size(name)[1] < size(name, se=1 / 16)[1] == pytest.approx(with_se, rel=4e-3)  # pooling is not counted here


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"])
def test_the_switch_adds_what_the_paper_says(name):
    """Hu et al. 2018, equation 5: 2 / r · Σ N_s · C_s² weights over stages of N_s blocks and C_s channels.

    The biases of the two layers, which it leaves out, are C_s / r and C_s.
    """
    with_se, without = (on_meta(name, **options) for options in ({"se": 1 / 16}, {}))
    added = sum(p.numel() for p in with_se.parameters()) - sum(p.numel() for p in without.parameters())
    stages = [(len(getattr(without, f"layer{i + 1}")), 256 * 2**i) for i in range(4)]
    weights = 2 / 16 * sum(blocks * channels**2 for blocks, channels in stages)
    biases = sum(blocks * (channels // 16 + channels) for blocks, channels in stages)
    assert added == weights + biases
