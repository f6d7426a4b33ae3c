"""Pre-activation ResNets against timm's `resnetv2`; depths and parameter counts of CIFAR and Wide ResNets."""

import pytest
import timm
import torch
import torch.nn.functional as F
from backbone_referee import assert_close, assert_same_maps, assert_same_step, on_meta, randomize, referee, slow
from torch import nn

from chordate.backbones.preact_resnet import WIDE_SIZES, PreActBlock, PreActBottleneck
from chordate.errors import ConfigError
from chordate.registry import BACKBONES
from chordate.weights.formats import timm as timm_names


class Theirs(nn.Module):
    """timm's network with Chordate's names of feature maps and parameters."""

    def __init__(self, name: str):
        super().__init__()
        self.net = referee(lambda: timm.create_model(name))

    def forward(self, images):
        maps, x = {}, self.net.stem(images)
        for i, stage in enumerate(self.net.stages):
            x = maps[f"c{i + 2}"] = stage(x)
        maps["c5"] = self.net.norm(x)
        return maps

    def renamed(self, named):
        converted = timm_names.TimmPreActResNet().convert({k.removeprefix("net."): v for k, v in named}, None)
        return {k: v for k, v in converted.items() if not k.startswith("head.")}

    def named_parameters(self, *args, **kwargs):
        return iter(self.renamed(super().named_parameters(*args, **kwargs)).items())

    def state_dict(self, *args, **kwargs):
        return self.renamed(super().state_dict(*args, **kwargs).items())


def pair(depth: int, **options):
    theirs = Theirs(f"resnetv2_{depth}")
    ours = on_meta(f"preact_resnet{depth}", **options)
    ours.load_state_dict({name: value.clone() for name, value in theirs.state_dict().items()}, assign=True)
    return ours, theirs


@pytest.mark.parametrize("depth", [50, *slow(101, 152)])
def test_every_feature_map_of_preact_resnet_is_timms(depth):
    assert_same_maps(*pair(depth), torch.randn(2, 3, 65, 96))


@pytest.mark.parametrize("depth", [50, *slow(101, 152)])
def test_a_preact_resnet_training_step_is_timms(depth):
    ours, theirs = pair(depth)
    assert_same_step(ours, theirs, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_dilated_preact_resnet_is_timms(output_stride):
    ours, _ = pair(50, out=["c5"], output_stride=output_stride)
    theirs = timm.create_model("resnetv2_50", output_stride=output_stride)
    state = ours.state_dict()
    renamed = timm_names.TimmPreActResNet().convert(theirs.state_dict(), None)
    assert {n for n in renamed if not n.startswith("head.")} == set(state)
    with torch.no_grad():
        for name, value in zip(renamed, theirs.state_dict().values()):
            if name in state:
                value.copy_(state[name])
        images = torch.randn(1, 3, 64, 80)
        assert_close(ours.eval()(images)["c5"], theirs.eval().forward_features(images), "c5", 1e-4)
    assert ours.out_features["c5"].stride == output_stride


@pytest.mark.parametrize(("depth", "millions"), [(164, 1.7), pytest.param(1001, 10.2, marks=pytest.mark.slow)])
def test_weight_counts_of_preact_resnets_are_the_papers(depth, millions):
    """Identity Mappings (He et al. 2016), table 4, whose counts include convolutions and the classifier, not norms."""
    weights = sum(p.numel() for p in on_meta(f"preact_resnet{depth}_cifar").parameters() if p.dim() == 4)
    assert (weights + 10 * 256 + 10) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("depth", "widen"), WIDE_SIZES)
def test_parameter_counts_of_wide_resnets_are_the_formulas(depth, widen):
    """Zagoruyko & Komodakis 2016, table 1: 3 groups of (depth - 4) / 6 blocks.

    The first block of each group has a projection shortcut.
    """
    expected, before = 9 * 3 * 16, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        expected += before * width  # the projection shortcut
        for _ in range((depth - 4) // 6):
            expected += 9 * before * width + 9 * width * width + 2 * before + 2 * width
            before = width
    expected += 2 * before  # the last norm
    assert sum(p.numel() for p in on_meta(f"wrn{depth}_{widen}_cifar").parameters()) == expected


@pytest.mark.parametrize(("depth", "bottleneck", "blocks"), [(110, False, 54), (164, True, 54), (28, False, 12)])
def test_depth_counts_the_convolutions(depth, bottleneck, blocks):
    model = BACKBONES.build({"type": "CifarPreActResNet", "depth": depth, "bottleneck": bottleneck})
    assert sum(isinstance(m, PreActBlock | PreActBottleneck) for m in model.modules()) == blocks


@torch.no_grad()
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_preactivation_block_is_the_papers_formula(shortcut, stride):
    """Figure 4e of Identity Mappings: x + conv(relu(norm(conv(relu(norm(x)))))); at stride 2, a shortcut replaces x."""
    torch.manual_seed(0)
    block = randomize(PreActBlock(8, 8 * stride, stride=stride, shortcut=shortcut)).eval()
    x = torch.randn(2, 8, 10, 10)

    def active(norm, y):
        return F.relu(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    y = active(block.norm1, x)
    inner = F.conv2d(y, block.conv1.weight, stride=stride, padding=1)
    inner = F.conv2d(active(block.norm2, inner), block.conv2.weight, padding=1)
    identity = x
    if stride == 2:
        identity = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 8))
        if shortcut == "B":
            identity = F.conv2d(y, block.downsample.weight, stride=2)
    torch.testing.assert_close(block(x), inner + identity)


@torch.no_grad()
def test_the_first_blocks_shortcut_is_the_activated_stem():
    """Identity Mappings, appendix: "the first activation right after conv1 and before splitting into two paths"."""
    torch.manual_seed(0)
    model = BACKBONES.build({"type": "CifarPreActResNet", "depth": 14, "shortcut": "A", "out": ["c1", "c2"]})
    model = randomize(model).eval()
    images = torch.randn(2, 3, 32, 32)
    first, second = model.layer1

    def active(norm, y):
        return F.relu(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    def branch(block, y):
        return F.conv2d(active(block.norm2, F.conv2d(y, block.conv1.weight, padding=1)), block.conv2.weight, padding=1)

    stem = F.conv2d(images, model.conv1.weight, padding=1)
    x = active(first.norm1, stem)
    x = x + branch(first, x)
    x = x + branch(second, active(second.norm1, x))
    maps = model(images)
    torch.testing.assert_close(maps["c1"], stem)
    torch.testing.assert_close(maps["c2"], x, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["wrn16_4_cifar", "preact_resnet164_cifar", "densenet100_12_cifar"])
def test_without_norms_a_feature_map_does_not_depend_on_later_stages(name):
    torch.manual_seed(0)
    model = BACKBONES.build({"type": name, "norm": None, "out": ["c2", "c4"] if "dense" not in name else ["c1", "c3"]})
    images = torch.randn(2, 3, 16, 16)
    early = min(model.out_features)
    truncated = BACKBONES.build({"type": name, "norm": None, "out": [early]})
    truncated.load_state_dict({k: v for k, v in model.state_dict().items() if k in truncated.state_dict()})
    torch.testing.assert_close(model(images)[early], truncated(images)[early])


def test_only_the_last_feature_map_is_normalized_and_activated():
    model = randomize(BACKBONES.build({"type": "wrn16_4_cifar", "out": ["c2", "c3", "c4"]})).eval()
    maps = model(torch.randn(1, 3, 32, 32))
    assert (maps["c4"] >= 0).all() and (maps["c2"] < 0).any() and (maps["c3"] < 0).any()
    assert [tuple(x.shape[1:]) for x in maps.values()] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]


def test_dropout_is_applied_between_the_convolutions():
    block = PreActBlock(8, 8, dropout=0.5).train()
    x = torch.randn(2, 8, 10, 10)
    assert not torch.equal(block(x), block(x))
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "CifarPreActResNet", "depth": 21}, "6n [+] 2"),
        ({"type": "CifarPreActResNet", "depth": 164, "bottleneck": True, "dropout": 0.3, "shortcut": "C"}, "shortcut"),
        ({"type": "PreActResNet", "depth": 18}, "50, 101, 152, 200"),
        ({"type": "PreActResNet", "depth": 50, "output_stride": 4}, "one of 8, 16, 32"),
    ],
)
def test_an_invalid_setting_of_a_preact_resnet_is_a_one_line_error(options, message):
    with pytest.raises(ConfigError, match=message):
        BACKBONES.build(options)
