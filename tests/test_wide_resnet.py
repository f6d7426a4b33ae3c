"""Wide ResNets for ImageNet against torchvision's."""

import pytest
import torch
import torchvision
from backbone_referee import (
    assert_same_maps,
    assert_same_names_and_shapes,
    assert_same_step,
    extractor,
    on_meta,
    referee,
    with_weights_of,
)

from chordate.contracts import check_outputs

MAPS = {"relu": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}


# Marked slow, since test_resnext.py always compares a ResNet that differs only in groups and width per group.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide_resnet50_2", "wide_resnet101_2"])
def test_feature_maps_and_a_training_step_of_wide_resnet_are_torchvisions(name):
    torch.manual_seed(0)
    theirs = referee(lambda: torchvision.models.get_model(name, weights=None))
    ours = with_weights_of(theirs, name, out=list(MAPS.values()))
    assert_same_maps(ours, extractor(theirs, MAPS), torch.randn(2, 3, 64, 64), tolerance=1e-5)
    theirs = extractor(theirs, {"layer4": "c5"})
    assert_same_step(
        ours, theirs, torch.randn(2, 3, 40, 40), dtype=torch.float32
    )  # both run the same operations, so float32 is precise enough


def test_only_the_3x3_convolutions_of_bottlenecks_are_wider():
    wide, narrow = (on_meta(name) for name in ("wide_resnet50_2", "resnet50"))
    assert wide.out_features == narrow.out_features
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for a, b in zip(getattr(wide, stage), getattr(narrow, stage)):
            assert a.conv2.weight.shape[:2] == tuple(2 * channels for channels in b.conv2.weight.shape[:2])


@pytest.mark.parametrize(("name", "title"), [("wide_resnet50_2", "50-2"), ("wide_resnet101_2", "101-2")])
def test_every_wide_resnet_variant_has_the_declared_channels_and_strides(name, title):
    model = on_meta(name, out=["c1", "c2", "c3", "c4", "c5"])
    check_outputs(model)
    with torch.device("meta"):
        assert_same_names_and_shapes(model, torchvision.models.get_model(name, weights=None))
    assert model.name == f"Wide ResNet-{title}"
