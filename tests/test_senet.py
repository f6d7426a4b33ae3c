"""Squeeze-and-excitation networks against timm's, the paper's tables, and its equation 5."""

import pytest
import timm
import torch
from backbone_referee import (
    assert_same_maps,
    assert_same_names_and_shapes,
    assert_same_step,
    extractor,
    on_meta,
    randomize,
    referee,
    size,
    slow,
    with_weights_of,
)

from chordate.backbones.resnet_variants import SE_RESNET
from chordate.contracts import check_outputs
from chordate.registry import BACKBONES

MAPS = {"act1": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}
SMALL = ("seresnet18", "seresnet50", "seresnext50_32x4d")
LARGE = ("seresnet34", "seresnet101", "seresnet152", "seresnext101_32x4d")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", [*SMALL, *slow(*LARGE)])
def test_feature_maps_of_senet_are_timms(name):
    theirs = referee(lambda: timm.create_model(name))
    ours = with_weights_of(theirs, name, out=list(MAPS.values()))
    assert_same_maps(ours, extractor(theirs, MAPS), torch.randn(1, 3, 65, 96), tolerance=1e-5)


@pytest.mark.parametrize("name", [*SMALL[:2], *slow(*SMALL[2:], *LARGE)])
def test_a_training_step_of_senet_is_timms(name):
    theirs = referee(lambda: timm.create_model(name))
    ours = with_weights_of(theirs, name, out=["c5"])
    # Both run the same operations, so float32 is precise enough.
    assert_same_step(ours, extractor(theirs, {"layer4": "c5"}), torch.randn(2, 3, 40, 40), dtype=torch.float32)


@pytest.mark.parametrize("name", [*SMALL, *slow(*sorted(set(SE_RESNET) - set(SMALL)))])
def test_every_senet_variant_has_timms_parameter_names_and_the_declared_channels(name):
    ours = on_meta(name, out=list(MAPS.values()))
    with torch.device("meta"):
        assert_same_names_and_shapes(ours, timm.create_model(name))
    check_outputs(ours)
    assert ours.name.startswith("SE-ResNe")


@pytest.mark.parametrize(
    ("reduction", "millions"),
    [
        (16, 28.1),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in ((2, 45.7), (4, 35.7), (8, 30.7), (32, 26.9))),
    ],
    ids="reduction={}".format,
)
def test_parameters_by_reduction_are_the_papers(reduction, millions):
    """Hu et al. 2018, table 10 (SE-ResNet-50); numbers are equal up to the table's rounding."""
    assert size("resnet50", se=1 / reduction)[0] == pytest.approx(millions, abs=0.1)


DEEP = [pytest.param(*row, marks=pytest.mark.slow) for row in ((101, 7.58, 7.60), (152, 11.30, 11.32))]


@pytest.mark.parametrize(("depth", "billions", "with_se"), [(50, 3.86, 3.87), *DEEP])
def test_multiply_adds_of_senet_are_the_papers(depth, billions, with_se):
    """Hu et al. 2018, table 2, whose networks have the stride in the first 1×1 convolution."""
    name = f"resnet{depth}_caffe"
    plain = size(name)[1]
    assert plain == pytest.approx(billions, rel=2e-3)
    # The tolerance allows for the pooling, which is not counted here.
    assert plain < size(name, se=1 / 16)[1] == pytest.approx(with_se, rel=4e-3)


@pytest.mark.parametrize(
    "name",
    ["resnet50", "resnext50_32x4d", "wide_resnet50_2", "preact_resnet50", *slow("resnet101", "resnet152")],
)
def test_squeeze_and_excitation_adds_the_papers_number_of_parameters(name):
    """Hu et al. 2018, equation 5: 2 / r · Σ N_s · C_s² weights over stages of N_s blocks and C_s channels.

    The equation omits the biases of the two layers, C_s / r and C_s.
    """
    with_se, without = (on_meta(name, **options) for options in ({"se": 1 / 16}, {}))
    added = sum(p.numel() for p in with_se.parameters()) - sum(p.numel() for p in without.parameters())
    stages = [(len(getattr(without, f"layer{i + 1}")), 256 * 2**i) for i in range(4)]
    weights = 2 / 16 * sum(blocks * channels**2 for blocks, channels in stages)
    biases = sum(blocks * (channels // 16 + channels) for blocks, channels in stages)
    assert added == weights + biases


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["resnet20_cifar", "preact_resnet110_cifar", "preact_resnet164_cifar", "wrn16_4_cifar"]
)
def test_in_a_cifar_network_squeeze_and_excitation_scales_the_branch_only(name):
    """Hu et al. 2018, figure 3 and appendix: with gates of 0, blocks with identity shortcuts return their input."""
    torch.manual_seed(0)
    model = randomize(BACKBONES.build({"type": name, "se": 1 / 8, "out": ["c2"]})).eval()
    gated, x = model.layer1[1], torch.randn(2, model.out_features["c2"].channels, 8, 8).abs()
    assert (gated(x) - x).abs().max() > 1e-2
    squeezed = gated.se(torch.ones_like(x))[:, :, 0, 0]
    width = max(8, x.shape[1] // 8)
    assert gated.se.fc1.out_channels == width
    wanted = torch.relu(gated.se.fc1.weight.flatten(1) @ torch.ones(x.shape[1]) + gated.se.fc1.bias)
    wanted = torch.sigmoid(gated.se.fc2.weight.flatten(1) @ wanted + gated.se.fc2.bias)
    torch.testing.assert_close(squeezed, wanted.expand(2, -1))
    gated.se.fc2.weight.zero_()
    gated.se.fc2.bias.fill_(-100)
    torch.testing.assert_close(gated(x), x)
