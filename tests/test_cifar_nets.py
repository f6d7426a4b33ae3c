"""CIFAR's thin ResNets and highway networks: the papers' sizes and formulas."""

import pytest
import torch
import torch.nn.functional as F
from backbone_referee import on_meta, randomize, slow
from torch import nn

from chordate.backbones.highway import HighwayBlock
from chordate.backbones.layers import BasicBlock
from chordate.errors import ConfigError
from chordate.registry import BACKBONES


@pytest.mark.parametrize("kind", ["resnet", "plain"])
@pytest.mark.parametrize("depth", [20, 56])
def test_depth_counts_the_layers_with_weights(kind, depth):
    model = on_meta(f"{kind}{depth}_cifar")
    # + 1 counts the classifier; shortcuts have no weights.
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) + 1 == depth


@torch.no_grad()
@pytest.mark.parametrize("kind", ["resnet", "plain"])
def test_the_network_equals_the_papers_formula(kind):
    """A stem and 3n pairs of 3×3 convolutions; the shortcut subsamples and pads with zeros, or is absent."""
    torch.manual_seed(0)
    model = randomize(BACKBONES.build({"type": f"{kind}20_cifar", "out": ["c1", "c2", "c3", "c4"]})).eval()
    images = torch.randn(2, 3, 32, 32)

    def layer(conv, norm, x, stride):
        x = F.conv2d(x, conv.weight, stride=stride, padding=1)
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    x = F.relu(layer(model.conv1, model.bn1, images, 1))
    wanted = {"c1": x}
    for number, stage in enumerate((model.layer1, model.layer2, model.layer3)):
        for place, block in enumerate(stage):
            stride = 2 if number and not place else 1
            y = layer(block.conv2, block.bn2, F.relu(layer(block.conv1, block.bn1, x, stride)), 1)
            if kind == "resnet":
                carried = x[:, :, ::stride, ::stride]
                y = y + torch.cat((carried, torch.zeros(2, y.shape[1] - x.shape[1], *y.shape[2:])), 1)
            x = F.relu(y)
        wanted[f"c{number + 2}"] = x
    maps = model(images)
    assert [spec.stride for spec in model.out_features.values()] == [1, 1, 2, 4]
    for name, map_ in wanted.items():
        torch.testing.assert_close(maps[name], map_, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [110, *slow(1202)])
def test_many_layers_learn_with_checkpointing(depth):
    model = BACKBONES.build({"type": f"resnet{depth}_cifar", "checkpointing": True}).train()
    model(torch.randn(2, 3, 8, 8))["c4"].square().mean().backward()
    assert model.conv1.weight.grad.abs().max() > 0
    assert sum(isinstance(m, BasicBlock) for m in model.modules()) == (depth - 2) // 2


def highway_block() -> HighwayBlock:
    torch.manual_seed(0)
    return randomize(HighwayBlock(8, 8)).eval()


@torch.no_grad()
def test_a_highway_block_equals_equation_3():
    block, x = highway_block(), torch.randn(2, 8, 10, 10)
    bn = block.bn
    h = F.batch_norm(F.conv2d(x, block.conv.weight, padding=1), bn.running_mean, bn.running_var, bn.weight, bn.bias)
    h, t = F.relu(h), torch.sigmoid(F.conv2d(x, block.gate.weight, block.gate.bias, padding=1))
    assert 0.2 < t.mean() < 0.8
    torch.testing.assert_close(block(x), h * t + x * (1 - t))


@torch.no_grad()
def test_a_closed_gate_carries_and_an_open_gate_transforms():
    block, x = highway_block(), torch.randn(2, 8, 10, 10)
    nn.init.zeros_(block.gate.weight)
    nn.init.constant_(block.gate.bias, -100)
    torch.testing.assert_close(block(x), x)
    nn.init.constant_(block.gate.bias, 100)
    torch.testing.assert_close(block(x), F.relu(block.bn(block.conv(x))))


def test_new_highway_networks_mostly_carry():
    model = BACKBONES.build("highway20_cifar")
    gates = [m.gate for m in model.modules() if isinstance(m, HighwayBlock) and m.gate is not None]
    assert len(gates) == 16 and all((gate.bias < 0).all() for gate in gates)
    assert sum(isinstance(m, HighwayBlock) for m in model.modules()) == 18
    model(torch.randn(2, 3, 32, 32))["c4"].mean().backward()
    assert gates[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("depth", [20, 32])
def test_a_highway_networks_parameter_count_equals_the_formula(depth):
    """Each layer has a convolution and a norm; if it keeps the shape, also a gate (a convolution with bias)."""
    expected, before = 9 * 3 * 16 + 2 * 16, 16
    for width in (16, 32, 64):
        for _ in range((depth - 2) // 3):
            expected += 9 * before * width + 2 * width
            expected += 9 * width * width + width if before == width else 0
            before = width
    assert sum(p.numel() for p in on_meta(f"highway{depth}_cifar").parameters()) == expected


@pytest.mark.parametrize("options", [{"type": "CifarResNet", "depth": 18}, {"type": "HighwayNet", "depth": 21}])
def test_a_depth_outside_the_cifar_formula_is_refused(options):
    with pytest.raises(ConfigError, match=r"depth must be [63]n \+ 2 .*, got \d+"):
        BACKBONES.build(options)
