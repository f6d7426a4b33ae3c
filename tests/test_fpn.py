"""FPN: outputs equal to torchvision's, sizes of the feature maps, and error messages."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from chordate.contracts import FeatureSpec, FeatureSpecs, offered
from chordate.errors import ConfigError
from chordate.necks import FPN
from chordate.registry import BACKBONES, NECKS

SPECS = FeatureSpecs({f"c{i}": FeatureSpec(4 * i, 2**i) for i in range(1, 6)}, "ResNet-50")
CHANNELS = 8


def features(height: int, width: int, names=tuple(SPECS)) -> dict[str, Tensor]:
    """Random feature maps of a batch of two images; sizes are rounded up, as in strided convolutions."""
    return {
        n: torch.randn(2, SPECS[n].channels, -(-height // SPECS[n].stride), -(-width // SPECS[n].stride)) for n in names
    }


def copy_weights(ours: FPN, theirs: torchvision.ops.FeaturePyramidNetwork) -> None:
    for i, (name, level) in enumerate(zip(ours.lateral, ours.output, strict=True)):
        ours.lateral[name].load_state_dict(theirs.inner_blocks[i].state_dict())
        ours.output[level].load_state_dict(theirs.layer_blocks[i].state_dict())
    if isinstance(theirs.extra_blocks, LastLevelP6P7):  # torchvision always names them p6 and p7
        for layer, their_name in zip(ours.extra.values(), ("p6", "p7"), strict=True):
            layer.load_state_dict(getattr(theirs.extra_blocks, their_name).state_dict())


@pytest.mark.parametrize("norm", [None, "BN"])
@pytest.mark.parametrize("inputs", [["c2", "c3", "c4", "c5"], ["c3", "c4", "c5"], ["c2", "c3"], ["c4"]], ids=str)
@pytest.mark.parametrize("extra", [None, "pool", "input", "output"])
@pytest.mark.parametrize("size", [(128, 192), (101, 77)], ids=str)
def test_fpn_equals_torchvisions_with_its_weights(inputs, extra, norm, size):
    torch.manual_seed(0)
    last = inputs[-1]
    widths = [SPECS[name].channels for name in inputs]
    ours_extra, their_extra = {
        None: (None, None),
        "pool": ("pool", LastLevelMaxPool()),
        "input": (last, LastLevelP6P7(widths[-1], CHANNELS)),
        "output": (f"p{last[1:]}", LastLevelP6P7(CHANNELS, CHANNELS)),
    }[extra]
    ours = FPN(SPECS, CHANNELS, inputs=inputs, norm=norm, extra=ours_extra)
    theirs = torchvision.ops.FeaturePyramidNetwork(widths, CHANNELS, their_extra, nn.BatchNorm2d if norm else None)
    copy_weights(ours, theirs)

    maps = features(*size)
    expected = theirs({name: maps[name] for name in inputs})
    got = ours(maps)
    assert len(got) == len(expected)
    for mine, their in zip(got.values(), expected.values(), strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200))
def test_levels_have_the_size_of_their_backbone_stage_and_extra_levels_halve(height, width):
    fpn = FPN(SPECS, 4, extra="p5")
    pyramid = fpn(features(height, width))
    assert list(pyramid) == ["p2", "p3", "p4", "p5", "p6", "p7"] == list(fpn.out_features)
    for level, spec in fpn.out_features.items():
        assert spec == FeatureSpec(4, 2 ** int(level[1:]))
        assert pyramid[level].shape == (2, 4, -(-height // spec.stride), -(-width // spec.stride))


def test_by_default_fpn_uses_every_feature_map_of_stride_4_or_more():
    assert FPN(SPECS, 4).inputs == ("c2", "c3", "c4", "c5")


def test_a_dilated_stage_keeps_its_stride():
    backbone = BACKBONES.build({"type": "resnet18", "output_stride": 16})
    fpn = NECKS.build({"type": "FPN", "channels": 4}, in_features=backbone.out_features)
    pyramid = fpn(backbone(torch.randn(1, 3, 64, 64)))
    assert fpn.out_features["p5"].stride == 16
    assert fpn.out_features["p6"].stride == 32
    assert pyramid["p5"].shape == pyramid["p4"].shape == (1, 4, 4, 4)
    assert pyramid["p6"].shape == (1, 4, 2, 2)


@pytest.mark.slow  # test_training_steps.py always compiles a detector with an FPN
def test_fpn_traces_as_one_graph():
    fpn = FPN(SPECS, 4, extra="c5", norm="BN").eval()
    maps = features(65, 97)
    compiled = torch.compile(fpn, fullgraph=True, backend="aot_eager")(maps)
    for level, expected in fpn(maps).items():
        torch.testing.assert_close(compiled[level], expected)


def test_the_error_for_an_unknown_feature_map_names_the_neck_and_the_backbone():
    backbone = BACKBONES.build("resnet50")
    with pytest.raises(ConfigError) as caught:
        NECKS.build({"type": "FPN", "inputs": ["c2", "c6"]}, in_features=offered(backbone))
    assert str(caught.value) == (
        'FPN needs feature maps "c2", "c6", but ResNet-50 offers c2 (256 ch, stride 4), c3 (512 ch, stride 8), '
        'c4 (1024 ch, stride 16), c5 (2048 ch, stride 32); there is no "c6"'
    )


@pytest.mark.parametrize(
    ("in_features", "options", "message"),
    [
        (SPECS, {"inputs": ["c3", "c2"]}, "fine to coarse"),
        (SPECS, {"inputs": []}, "at least 1 item"),
        (SPECS, {"extra": "p6"}, '"pool", "c5", "p5" or None'),
        (SPECS, {"inputs": ["c3", "c4"], "extra": "c5"}, '"pool", "c4", "p4" or None'),
        ({"res2": FeatureSpec(4, 4)}, {}, 'named after their stage .*"res2"'),
    ],
    ids=str,
)
def test_an_invalid_setting_of_fpn_is_a_one_line_error(in_features, options, message):
    with pytest.raises(ConfigError, match=message):
        NECKS.build({"type": "FPN", **options}, in_features=in_features)


def test_extra_levels_without_relu_are_two_convolutions_in_a_row():
    """MMDetection's FPN without `relu_before_extra_convs`."""
    specs = {f"c{level}": FeatureSpec(8, 2**level) for level in (3, 4, 5)}
    neck = FPN(specs, 8, extra="c5", extra_relu=False)
    maps = {name: torch.randn(1, 8, 128 // spec.stride, 128 // spec.stride) for name, spec in specs.items()}
    expected = neck.extra["p7"](neck.extra["p6"](maps["c5"]))
    torch.testing.assert_close(neck(maps)["p7"], expected)
    assert expected.shape == (1, 8, 1, 1)
