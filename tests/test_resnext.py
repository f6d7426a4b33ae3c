"""ResNeXt against torchvision's and timm's, and the paper's equation for the number of weights."""

import pytest
import timm
import torch
import torchvision
from backbone_referee import assert_same_maps, assert_same_step, extractor, on_meta, referee, slow, with_weights_of

from chordate.backbones.resnet_variants import RESNEXT
from chordate.contracts import check_outputs

TORCHVISION = {"relu": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}
TIMM = {"act1": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["resnext50_32x4d", *slow("resnext101_32x8d", "resnext101_64x4d")])
def test_feature_maps_and_a_training_step_of_resnext_are_torchvisions(name):
    theirs = referee(lambda: torchvision.models.get_model(name, weights=None))
    ours = with_weights_of(theirs, name, out=list(TORCHVISION.values()))
    assert_same_maps(ours, extractor(theirs, TORCHVISION), torch.randn(2, 3, 64, 64), tolerance=1e-5)
    theirs = extractor(theirs, {"layer4": "c5"})
    assert_same_step(
        ours, theirs, torch.randn(2, 3, 40, 40), dtype=torch.float32
    )  # both run the same operations, so float32 is precise enough


@pytest.mark.slow
def test_feature_maps_and_a_training_step_of_resnext101_32x4d_are_timms():
    theirs = referee(lambda: timm.create_model("resnext101_32x4d"))
    ours = with_weights_of(theirs, "resnext101_32x4d", out=list(TIMM.values()))
    assert_same_maps(ours, extractor(theirs, TIMM), torch.randn(2, 3, 64, 64), tolerance=1e-5)
    assert_same_step(ours, extractor(theirs, {"layer4": "c5"}), torch.randn(2, 3, 40, 40), dtype=torch.float32)


@pytest.mark.parametrize(("cardinality", "width"), [(1, 64), (2, 40), (4, 24), (8, 14), (32, 4)])
def test_blocks_of_every_cardinality_have_about_the_same_number_of_weights(cardinality, width):
    """Xie et al. 2017, table 2 and equation 4: a block of c2 with cardinality C and width d has
    C · (256 · d + 3 · 3 · d · d + d · 256) weights."""
    block = on_meta("resnet50", groups=cardinality, group_width=width, out=["c2"]).layer1[1]
    weights = sum(conv.weight.numel() for conv in (block.conv1, block.conv2, block.conv3))
    assert weights == cardinality * (256 * width + 3 * 3 * width * width + width * 256)
    assert weights == pytest.approx(70_000, rel=0.025)


@pytest.mark.parametrize("name", sorted(RESNEXT))
def test_every_resnext_variant_has_the_declared_channels_and_strides(name):
    model = on_meta(name, out=["c1", "c2", "c3", "c4", "c5"])
    check_outputs(model)
    assert model.name == "ResNeXt-" + name.removeprefix("resnext").replace("_", "-")
