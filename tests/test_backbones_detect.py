"""FPN and Faster R-CNN can be built with any backbone, without configuring channel counts, and take training steps."""

import math
import re

import pytest
import torch
from backbone_referee import thin
from test_backbones import ADAPTED, ARCHITECTURES, FAMILIES, VARIANTS
from test_two_stage import batch_of
from torch import nn

import chordate
from chordate.errors import ConfigError
from chordate.registry import BACKBONES

BACKBONES.names()
NAMED = sorted(BACKBONES.variants)
# The smallest network of each series, such as `resnet#d`; the others run with `-m slow`.
SERIES = {
    re.sub(r"\d+", "#", name): name for name in sorted(NAMED, key=lambda n: [*map(int, re.findall(r"\d+", n))])[::-1]
}
TORCHVISION = ["alexnet", "vgg16", "googlenet", "inception_v3", "resnet18", "densenet121", "mobilenet_v2"]
TORCHVISION += ["efficientnet_b0", "regnet_y_400mf", "shufflenet_v2_x0_5", "mnasnet0_5", "squeezenet1_1", "swin_t"]
TIMM = ["efficientnet_b0", "resnetv2_50", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]
TIMM += ["regnety_002", "hrnet_w18", "pvt_v2_b0", "edgenext_xx_small", "ghostnet_050", "vgg11", "repvgg_a0"]


def detector(backbone: str | dict) -> nn.Module:
    """Faster R-CNN with thin heads; each part reads the feature specs of the previous part."""
    return chordate.build_model(
        {
            "type": "TwoStageDetector",
            "backbone": backbone,
            "neck": {"type": "FPN", "channels": 16},
            "rpn": {"type": "RPNHead", "pre_nms_topk": (200, 100), "post_nms_topk": (100, 50)},
            "box": {"type": "BoxHead", "trunk": {"type": "ConvFC", "fc_channels": 32}, "batch_size_per_image": 32},
        },
        num_classes=3,
        pretrained=False,
    )


def take_a_step(backbone: str | dict, side: int) -> None:
    torch.manual_seed(0)
    model = detector(backbone).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = model(batch_of(3, 1, side=side))
    assert set(losses) == {"rpn_cls", "rpn_box", "box_cls", "box_reg"}
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    norm = math.hypot(*(gradient.norm().item() for gradient in gradients.values()))
    assert math.isfinite(norm)
    before = next(model.backbone.parameters()).clone()
    optimizer.step()
    assert not torch.equal(before, next(model.backbone.parameters())), "the optimizer did not update the first layer"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_smallest_of_each_family_takes_a_training_step(name):
    take_a_step(ADAPTED.get(name) or thin({"type": name}), side=64)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in SERIES.values()))
        for name in NAMED
        if name not in FAMILIES or name in VARIANTS
    ],
)
def test_every_other_backbone_is_wired_by_its_name(name):
    with torch.device("meta"):
        model = detector(name)
    maps = {key.replace("c", "p"): spec.stride for key, spec in model.backbone.out_features.items() if spec.stride >= 4}
    assert maps.items() <= {key: spec.stride for key, spec in model.neck.out_features.items()}.items()
    assert set(model.neck.out_features) - set(maps) == {f"p{int(max(maps)[1]) + 1}"}  # the level added by pooling


def test_feature_maps_that_are_all_too_fine_for_a_neck_are_refused():
    with pytest.raises(ConfigError, match="at least one feature map of stride 4 or coarser"):
        detector({"type": "resnet20_cifar", "out": ["c3"]})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_every_named_backbone_takes_a_training_step(name):
    take_a_step(name, side=64)


@pytest.mark.slow
@pytest.mark.parametrize("model", TORCHVISION)
def test_torchvisions_networks_take_a_training_step(model):
    take_a_step({"type": "TorchvisionBackbone", "model": model}, side=128)


@pytest.mark.slow
@pytest.mark.parametrize("model", TIMM)
def test_timms_networks_take_a_training_step(model):
    take_a_step({"type": "TimmBackbone", "model": model}, side=128)
