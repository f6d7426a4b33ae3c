"""The heads of Panoptic-DeepLab are those of Detectron2's project, except for the differences stated here.

Sources: projects/Panoptic-DeepLab (panoptic_seg.py, Base-PanopticDeepLab-OS16.yaml and the _dsconv.yaml that inherits
from it), projects/DeepLab (semantic_seg.py, resnet.py, loss.py) and detectron2/layers/aspp.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import chordate
from chordate.config import load_config
from chordate.contracts import FeatureSpec
from chordate.registry import HEADS
from chordate.structures import IGNORED

CONFIG = "panoptic-deeplab_r52_cityscapes"
SPECS = {"c2": FeatureSpec(256, 4), "c3": FeatureSpec(512, 8), "c5": FeatureSpec(2048, 16)}


def separable(in_channels: int, channels: int, kernel: int) -> list[tuple[int, ...]]:
    return [(in_channels, 1, kernel, kernel), (channels, in_channels, 1, 1)]


def decoder(channels: int) -> list[tuple[int, ...]]:
    """Shapes of the weights for PROJECT_CHANNELS [32, 64] (res2, res3), ASPP_CHANNELS 256 and CONVS_DIM `channels`."""
    pixels_and_pooled = [(256, 2048, 1, 1)] * 2
    aspp = [*pixels_and_pooled, *separable(2048, 256, 3) * 3, (256, 5 * 256, 1, 1)]
    res3 = [(64, 512, 1, 1), *separable(256 + 64, channels, 5)]
    res2 = [(32, 256, 1, 1), *separable(channels + 32, channels, 5)]
    return [*aspp, *res3, *res2]


# As in the paper, the center branch is like the offset branch; Detectron2 has it with `center_separable=False`.
SHAPES = {
    "semantic": [*decoder(256), *separable(256, 256, 5), (19, 256, 1, 1)],
    "center": [*decoder(128), *separable(128, 32, 5) * 2, (1, 32, 1, 1), (2, 32, 1, 1)],
}


@pytest.mark.parametrize("name", SHAPES)
def test_convolutions_have_the_shapes_of_detectron2s(name):
    with torch.device("meta"):
        head = getattr(chordate.build_model(CONFIG, pretrained=False), name)
    convs = [module for module in head.modules() if isinstance(module, nn.Conv2d)]
    assert sorted(tuple(conv.weight.shape) for conv in convs) == sorted(SHAPES[name])
    assert sorted({conv.dilation[0] for conv in convs}) == [1, 6, 12, 18]
    assert [drop.p for drop in head.modules() if isinstance(drop, nn.Dropout)] == [0.1]
    # Only the output convolutions have a bias.
    assert sum(conv.bias is not None for conv in convs) == {"semantic": 1, "center": 2}[name]
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in head.modules())
    assert norms == sum(conv.bias is None for conv in convs)  # Detectron2's pooling branch has a bias instead of a norm


def test_the_stem_of_r52_has_128_channels():
    """STEM_OUT_CHANNELS 128: 3×3 convolutions with 64, 64 and 128 channels."""
    with torch.device("meta"):
        backbone = chordate.build_model(CONFIG, pretrained=False).backbone
    convs = [tuple(conv.weight.shape) for conv in backbone.conv1.modules() if isinstance(conv, nn.Conv2d)]
    assert convs == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]
    assert backbone.layer1[0].conv1.weight.shape == (64, 128, 1, 1)


# Detectron2's project without DSConv: its convolutions are not separable, and the pooling has no norm and a window.
PLAIN = {"separable": False, "pooling_norm": False, "pooling_size": (4, 3)}


def plain_decoder(channels: int) -> list[tuple[int, ...]]:
    """As in `decoder`, with three atrous 3×3 convolutions, and two 3×3 convolutions in each fusion."""
    aspp = [*[(256, 2048, 1, 1)] * 2, *[(256, 2048, 3, 3)] * 3, (256, 5 * 256, 1, 1)]
    res3 = [(64, 512, 1, 1), (channels, 256 + 64, 3, 3), (channels, channels, 3, 3)]
    res2 = [(32, 256, 1, 1), (channels, channels + 32, 3, 3), (channels, channels, 3, 3)]
    return [*aspp, *res3, *res2]


def test_convolutions_have_the_shapes_of_detectron2s_models_without_dsconv():
    branch = [(128, 128, 3, 3), (32, 128, 3, 3)]
    shapes = {
        "semantic": [*plain_decoder(256), *[(256, 256, 3, 3)] * 2, (19, 256, 1, 1)],
        "center": [*plain_decoder(128), *branch * 2, (1, 32, 1, 1), (2, 32, 1, 1)],
    }
    settings = {"semantic": PLAIN, "center": {**PLAIN, "center_separable": False}}
    with torch.device("meta"):
        model = chordate.build_model(load_config(CONFIG, {"model": settings}), pretrained=False)
    for name, expected in shapes.items():
        convs = [module for module in getattr(model, name).modules() if isinstance(module, nn.Conv2d)]
        assert sorted(tuple(conv.weight.shape) for conv in convs) == sorted(expected)


def detectron2_layer(module: nn.Module, x: Tensor, dilation: int = 1) -> Tensor:
    """Convolution, norm in eval mode if it has one, ReLU; a separable convolution has two such sequences."""
    if not isinstance(module[0], nn.Conv2d):
        return detectron2_layer(module[1], detectron2_layer(module[0], x, dilation))
    conv, norm = module[0], module[1]
    padding = dilation * (conv.weight.shape[-1] // 2)
    groups = len(conv.weight) if conv.weight.shape[1] == 1 else 1
    y = F.conv2d(x, conv.weight, conv.bias, padding=padding, dilation=dilation, groups=groups)
    if not isinstance(norm, nn.BatchNorm2d):
        return y.relu()
    return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu()


def detectron2_features(decoder: nn.Module, maps: Mapping[str, Tensor]) -> Tensor:
    """DeepLabV3PlusHead.layers with the weights of our decoder; the pooling is nn.AvgPool2d if it has a window."""
    x, window = maps["c5"], decoder.aspp.pooling_size
    branches = [detectron2_layer(decoder.aspp.branches[0], x)]
    for branch, dilation in zip(decoder.aspp.branches[1:], (6, 12, 18), strict=True):
        branches.append(detectron2_layer(branch, x, dilation))
    pooled = F.avg_pool2d(x, window, stride=1) if window else F.adaptive_avg_pool2d(x, 1)
    pooled = detectron2_layer(decoder.aspp.pooled, pooled)
    branches.append(F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False))
    y = detectron2_layer(decoder.aspp.project, torch.cat(branches, dim=1))
    for name, reduce, fuse in zip(("c3", "c2"), decoder.reduce, decoder.fuse, strict=True):
        low = detectron2_layer(reduce, maps[name])
        y = F.interpolate(y, low.shape[-2:], mode="bilinear", align_corners=False)
        y = detectron2_layer(fuse, torch.cat([y, low], dim=1))
    return y


@pytest.fixture(scope="module")
def heads() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    built = {
        "semantic": {"type": "PanopticDeepLabHead"},
        "center": {"type": "CenterOffsetHead", "low_channels": (64, 32)},
    }
    return {
        name: HEADS.build(config, facts={"num_classes": 19}, in_features=SPECS).eval() for name, config in built.items()
    }


def test_initial_weights_are_detectron2s(heads):
    """Xavier initialization for plain convolutions, He's for separable ones, and a std of 0.001 for outputs."""
    decoder = heads["semantic"].decoder
    plain = [decoder.aspp.branches[0], decoder.aspp.pooled, decoder.aspp.project, *decoder.reduce]
    for weight in (layer[0].weight.detach() for layer in plain):
        limit = math.sqrt(3 / weight.shape[1])
        assert 0.99 * limit < weight.abs().max() <= limit
        assert float(weight.std()) == pytest.approx(limit / math.sqrt(3), rel=0.05)
    for module in [*decoder.aspp.branches[1:], *decoder.fuse, heads["semantic"].conv, heads["center"].center[0]]:
        for weight in (layer[0].weight.detach() for layer in module):
            fan_out = len(weight) * weight.shape[-1] ** 2
            assert float(weight.std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.06)
    outputs = [heads["semantic"].logits, heads["center"].center[1], heads["center"].offset[1]]
    for output in outputs:
        assert float(output.weight.detach().std()) == pytest.approx(0.001, rel=0.35) and not output.bias.any()


@pytest.mark.parametrize("settings", [{}, PLAIN], ids=["DSConv", "plain"])
def test_heads_compute_detectron2s_outputs(settings):
    torch.manual_seed(0)
    specs = {"c2": FeatureSpec(6, 4), "c3": FeatureSpec(7, 8), "c5": FeatureSpec(9, 16)}
    narrow = {"channels": 8, "aspp_channels": 10, "low_channels": (5, 4), **settings}
    semantic = HEADS.build({"type": "PanopticDeepLabHead", **narrow}, facts={"num_classes": 3}, in_features=specs)
    center = HEADS.build(
        {"type": "CenterOffsetHead", "head_channels": 6, "center_separable": not settings, **narrow}, in_features=specs
    )
    for module in nn.ModuleList([semantic, center]).double().eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    maps = {name: torch.randn(2, spec.channels, 128 // spec.stride, 96 // spec.stride).double()
            for name, spec in specs.items()}  # fmt: skip
    y = detectron2_layer(semantic.conv, detectron2_features(semantic.decoder, maps))
    torch.testing.assert_close(semantic(maps), F.conv2d(y, semantic.logits.weight, semantic.logits.bias))
    y = detectron2_features(center.decoder, maps)
    for output, branch in zip(center(maps), (center.center, center.offset), strict=True):
        expected = F.conv2d(detectron2_layer(branch[0], y), branch[1].weight, branch[1].bias)
        torch.testing.assert_close(output, expected)
    heatmap, offsets = center.resize(center(maps), (128, 96))
    raw = center(maps)  # common_stride 4
    scaled = [F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False) for x in raw]
    torch.testing.assert_close(heatmap, scaled[0][:, 0])
    torch.testing.assert_close(offsets, 4 * scaled[1])


def detectron2_hard_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """DeepLabCE: the mean of the largest 20 % of the weighted losses of all pixels."""
    losses = weights * F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="none")
    return losses.flatten().topk(int(0.2 * losses.numel())).values.mean()


@pytest.mark.parametrize("unlabeled", [0, 300])
def test_the_semantic_loss_is_detectron2s_for_labeled_pixels(heads, unlabeled):
    """Detectron2 averages the hardest 20 % of all pixels, including unlabeled ones, whose loss is 0."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 19, 20, 30, generator=generator)
    labels = torch.randint(0, 19, (2, 20, 30), generator=generator).short()
    weights = torch.where(torch.rand(2, 20, 30, generator=generator) < 0.3, 3.0, 1.0)
    labels.flatten()[:unlabeled] = IGNORED
    labeled = labels != IGNORED
    of_labeled = detectron2_hard_loss(
        logits.movedim(1, -1)[labeled].T[None, :, None], labels[labeled][None, None], weights[labeled][None, None]
    )
    loss = heads["semantic"].loss(logits, labels, weights)["semantic"]
    torch.testing.assert_close(loss, of_labeled)
    assert (loss > detectron2_hard_loss(logits, labels, weights)) == (unlabeled > 0)
