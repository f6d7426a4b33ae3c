"""Pre-activation ResNets against timm's `resnetv2`; their CIFAR kin and Wide ResNets by formula and size."""

import pytest
import timm
import torch
import torch.nn.functional as F
from backbone_referee import assert_close, assert_same_maps, assert_same_step, on_meta, randomise, referee
from torch import nn

from chordate.backbones.preact_resnet import PreActBlock, PreActBottleneck
from chordate.checkpoints import timm as timm_names
from chordate.errors import ConfigError
from chordate.registry import BACKBONES

# With the 10-class layer. He et al. 2016, Identity Mappings, tables 2 and 4 (it says 10.2 M for 1001 layers; counting
# every weight of the network that it describes gives 10.33 M); Zagoruyko & Komodakis 2016, tables 4 and 5.
SIZES = {
    "preact_resnet110_cifar": 1.7,
    "preact_resnet164_cifar": 1.7,
    "preact_resnet1001_cifar": 10.33,
    "wrn16_8_cifar": 11.0,
    "wrn28_10_cifar": 36.5,
    "wrn40_4_cifar": 8.9,
}


class Theirs(nn.Module):
    """timm's network as one that gives our maps, its parameters under our names."""

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
        found = {name.removeprefix("net."): value for name, value in named}
        return {k: v for k, v in timm_names.convert(found, None).items() if not k.startswith("head.")}

    def named_parameters(self, *args, **kwargs):
        return iter(self.renamed(super().named_parameters(*args, **kwargs)).items())

    def state_dict(self, *args, **kwargs):
        return self.renamed(super().state_dict(*args, **kwargs).items())


def pair(depth: int, **options):
    theirs = Theirs(f"resnetv2_{depth}")
    ours = on_meta(f"preact_resnet{depth}", **options)
    ours.load_state_dict({name: value.clone() for name, value in theirs.state_dict().items()}, assign=True)
    return ours, theirs


@pytest.mark.parametrize("depth", [50, 101])
def test_every_map_is_timms(depth):
    assert_same_maps(*pair(depth), torch.randn(2, 3, 65, 96))


def test_one_training_step_is_timms():
    ours, theirs = pair(50)
    assert_same_step(ours, theirs, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_dilated_network_is_timms(output_stride):
    ours, _ = pair(50, out=["c5"], output_stride=output_stride)
    theirs = timm.create_model("resnetv2_50", output_stride=output_stride)
    state = ours.state_dict()
    renamed = timm_names.convert(theirs.state_dict(), None)
    assert {n for n in renamed if not n.startswith("head.")} == set(state)
    with torch.no_grad():
        for name, value in zip(renamed, theirs.state_dict().values()):
            if name in state:
                value.copy_(state[name])
        images = torch.randn(1, 3, 64, 80)
        assert_close(ours.eval()(images)["c5"], theirs.eval().forward_features(images), "c5", 1e-4)
    assert ours.out_features["c5"].stride == output_stride


@pytest.mark.parametrize(("name", "millions"), SIZES.items())
def test_sizes_are_the_papers(name, millions):
    backbone = on_meta(name)
    channels = backbone.out_features["c4"].channels
    count = sum(p.numel() for p in backbone.parameters()) + 10 * channels + 10
    assert count / 1e6 == pytest.approx(millions, rel=0.01, abs=0.05)


@pytest.mark.parametrize(("depth", "bottleneck", "blocks"), [(110, False, 54), (164, True, 54), (28, False, 12)])
def test_depth_counts_the_convolutions(depth, bottleneck, blocks):
    model = BACKBONES.build({"type": "CifarPreActResNet", "depth": depth, "bottleneck": bottleneck})
    assert sum(isinstance(m, PreActBlock | PreActBottleneck) for m in model.modules()) == blocks


@torch.no_grad()
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_the_formula(shortcut, stride):
    """Figure 4e of Identity Mappings: x + conv(relu(norm(conv(relu(norm(x)))))."""
    torch.manual_seed(0)
    block = randomise(PreActBlock(8, 8 * stride, stride=stride, shortcut=shortcut)).eval()
    x = torch.randn(2, 8, 10, 10)

    def active(norm, y):
        return F.relu(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    y = active(block.norm1, x)
    inner = F.conv2d(y, block.conv1.weight, stride=stride, padding=1)
    inner = F.conv2d(active(block.norm2, inner), block.conv2.weight, padding=1)
    carried = x
    if stride == 2:
        carried = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 8))
        if shortcut == "B":
            carried = F.conv2d(y, block.downsample.weight, stride=2)
    torch.testing.assert_close(block(x), inner + carried)


def test_the_last_map_is_normed_and_the_others_are_bare_sums():
    model = randomise(BACKBONES.build({"type": "wrn16_4_cifar", "out": ["c2", "c3", "c4"]})).eval()
    maps = model(torch.randn(1, 3, 32, 32))
    assert (maps["c4"] >= 0).all() and (maps["c2"] < 0).any() and (maps["c3"] < 0).any()
    assert [tuple(x.shape[1:]) for x in maps.values()] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]


def test_dropout_lies_between_the_convolutions():
    block = PreActBlock(8, 8, dropout=0.5).train()
    x = torch.randn(2, 8, 10, 10)
    assert not torch.equal(block(x), block(x))
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"type": "CifarPreActResNet", "depth": 21}, "6n [+] 2"),
        ({"type": "CifarPreActResNet", "depth": 164, "bottleneck": True, "dropout": 0.3, "shortcut": "C"}, "shortcut"),
        ({"type": "PreActResNet", "depth": 18}, "50, 101, 152, 200"),
        ({"type": "PreActResNet", "depth": 50, "output_stride": 4}, "32, 16 or 8"),
    ],
)
def test_a_wrong_setting_is_one_line(options, told):
    with pytest.raises(ConfigError, match=told):
        BACKBONES.build(options)
