"""Segmentation decoders equal those of segmentation_models.pytorch (smp) on ResNet-18, with the same weights.

If smp's network differs from the paper and from ours, the test removes the difference and describes it.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.pspnet import decoder as psp_decoder
from torch import Tensor, nn

import chordate
from chordate.structures import DatasetMeta

META = DatasetMeta(("road", "car", "sky"))
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def randomize_norms(module: nn.Module) -> None:
    """Set random statistics and affine parameters, so that outputs differ if two norms are swapped."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, std=0.1)


def segmenter(theirs: nn.Module, **model) -> chordate.Model:
    """Our model in float64, with the backbone weights of `theirs`.

    smp dilates all convolutions of a stage; our `output_stride` alone would not, so the tests also set `dilations`.
    """
    ours = chordate.build_model(
        {"model": {"type": "SemanticSegmenter", "preprocess": PLAIN, **model}}, meta=META, pretrained=False
    )
    ours.backbone.load_state_dict(theirs.encoder.state_dict())
    return ours.double().eval()


def copy_in_order(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy weights between modules whose tensors have the same shapes in the same order."""
    source = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), source, strict=True)))


def their_model(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    theirs = getattr(smp, name)("resnet18", encoder_weights=None, classes=3, **options)
    randomize_norms(theirs)
    return theirs.double().eval()


def assert_same_logits(ours: chordate.Model, theirs: nn.Module, images: Tensor) -> None:
    """Compare the logits before the upsampling to the image size, which smp does with align_corners=True."""
    if isinstance(theirs.segmentation_head[1], nn.Upsample):
        theirs.segmentation_head[1] = nn.Identity()
    with torch.no_grad():
        expected = theirs(images)
        logits = ours.logits(images, torch.tensor([images.shape[-2:]] * len(images)))
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, atol=1e-10, rtol=0)


def test_unet_equals_smps():
    """smp's final 3×3 convolution is replaced by a 1×1 convolution, as in ours."""
    theirs = their_model("Unet")
    theirs.segmentation_head[0] = nn.Conv2d(16, 3, 1).double()
    backbone = {"type": "resnet18", "out": ["c1", "c2", "c3", "c4", "c5"]}
    ours = segmenter(theirs, backbone=backbone, neck={"type": "UNet"}, head={"type": "FCNHead", "convs": 0})
    copy_in_order(ours.neck.blocks, theirs.decoder.blocks)
    copy_in_order(ours.head.logits, theirs.segmentation_head[0])
    assert_same_logits(ours, theirs, torch.rand(2, 3, 96, 64, dtype=torch.float64))


def test_deeplabv3_equals_smps():
    theirs = their_model("DeepLabV3", encoder_output_stride=8)
    backbone = {"type": "resnet18", "out": ["c5"], "output_stride": 8, "dilations": (1, 1, 2, 4)}
    ours = segmenter(theirs, backbone=backbone, head={"type": "DeepLabV3Head", "rates": (12, 24, 36)})
    copy_in_order(ours.head.aspp.branches, theirs.decoder.aspp.convs[:4])
    copy_in_order(ours.head.aspp.pooled, theirs.decoder.aspp.convs[4])
    copy_in_order(ours.head.aspp.project, theirs.decoder.aspp.project)
    copy_in_order(ours.head.conv, nn.Sequential(theirs.decoder.conv, theirs.decoder.bn))
    copy_in_order(ours.head.logits, theirs.segmentation_head[0])
    assert_same_logits(ours, theirs, torch.rand(2, 3, 72, 64, dtype=torch.float64))


def test_deeplabv3plus_equals_smps():
    """The test removes the differences between smp's network and ours, which follows the paper.

    Ours has a norm and a ReLU after each depthwise convolution; smp has neither. After ASPP, ours upsamples
    (align_corners=False), concatenates, and applies two convolutions; smp applies one of them before the upsampling
    (align_corners=True) and one after the concatenation.
    """
    theirs = their_model("DeepLabV3Plus", encoder_output_stride=16)
    backbone = {"type": "resnet18", "out": ["c2", "c5"], "output_stride": 16, "dilations": (1, 1, 1, 2)}
    ours = segmenter(theirs, backbone=backbone, head={"type": "DeepLabV3PlusHead"})
    head, decoder = ours.head, theirs.decoder
    for separable in (*head.aspp.branches[1:], *head.decoder):
        separable[0] = separable[0][0]  # drops the norm and ReLU after the depthwise convolution
    head.decoder[1] = nn.Identity()
    decoder.aspp = decoder.aspp[0]
    decoder.up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    copy_in_order(head.aspp.branches, decoder.aspp.convs[:4])
    copy_in_order(head.aspp.pooled, decoder.aspp.convs[4])
    copy_in_order(head.aspp.project, decoder.aspp.project)
    copy_in_order(head.low, decoder.block1)
    copy_in_order(head.decoder[0], decoder.block2)
    copy_in_order(head.logits, theirs.segmentation_head[0])
    assert_same_logits(ours, theirs, torch.rand(2, 3, 96, 64, dtype=torch.float64))


def test_pspnet_equals_smps(monkeypatch):
    """smp has no norm in the branch that pools to 1×1, resizes with align_corners=True, and ends with a 3×3 convolution
    instead of our 1×1 convolution.

    It fuses the branches by a 1×1 convolution, which equals our 3×3 convolution with zeros around the center.
    """
    resize = SimpleNamespace(interpolate=lambda x, align_corners, **size: F.interpolate(x, align_corners=False, **size))
    monkeypatch.setattr(psp_decoder, "F", resize)
    theirs = their_model("PSPNet", encoder_depth=5)
    theirs.segmentation_head[0] = nn.Conv2d(512, 3, 1).double()
    ours = segmenter(theirs, backbone={"type": "resnet18", "out": ["c5"]}, head={"type": "PSPHead"})
    blocks = [block.pool[1] for block in theirs.decoder.psp.blocks]
    conv, norm = ours.head.branches[0][:2]
    conv.load_state_dict({"weight": blocks[0][0].weight}, strict=False)
    norm.load_state_dict({"bias": blocks[0][0].bias}, strict=False)
    norm.eps = 0.0
    for branch, block in zip(ours.head.branches[1:], blocks[1:], strict=True):
        copy_in_order(branch, block)
    fused = ours.head.conv[0]
    fused[1].load_state_dict(theirs.decoder.conv[1].state_dict())
    nn.init.zeros_(fused[0].weight)
    width = theirs.encoder.out_channels[-1]
    with torch.no_grad():  # smp concatenates the backbone's feature map last, ours first
        fused[0].weight[:, :, 1, 1] = theirs.decoder.conv[0].weight[:, :, 0, 0].roll(width, dims=1)
    copy_in_order(ours.head.logits, theirs.segmentation_head[0])
    assert_same_logits(ours, theirs, torch.rand(2, 3, 224, 192, dtype=torch.float64))


@pytest.mark.parametrize("size", [(97, 130), (33, 64), (1, 1)])
def test_unet_follows_any_image_size(size):
    backbone = chordate.build_backbone("resnet18", out=["c1", "c2", "c3", "c4", "c5"])
    neck = chordate.registry.NECKS.build({"type": "UNet"}, in_features=backbone.out_features)
    with torch.no_grad():
        p0 = neck.eval()(backbone.eval()(torch.rand(1, 3, *size)))["p0"]
    assert p0.shape[:2] == (1, 16)
    assert all(side <= cells <= side + 1 for cells, side in zip(p0.shape[-2:], size))


@pytest.mark.parametrize(
    ("backbone", "skips"),
    [
        ("r50", ["c4", "c3", "c2", "c1", None]),
        ("convnext_tiny", ["c4", "c3", "c2", None, None]),
        ("densenet121", ["c4", "c3", "c2", "c1", None]),
    ],
)
def test_a_composed_unet_uses_every_feature_map_of_its_backbone(backbone, skips):
    with torch.device("meta"):
        model = chordate.build_model(f"unet_{backbone}_camvid", num_classes=3, pretrained=False)
    assert model.neck.skips == skips


@pytest.mark.parametrize("plug", [{"type": "TimmBackbone"}, {"type": "TorchvisionBackbone"}, {"type": "ResNet"}])
def test_out_all_has_one_feature_map_per_stride(plug):
    model = {"depth": 18} if plug["type"] == "ResNet" else {"model": "resnet18"}
    with torch.device("meta"):
        backbone = chordate.build_backbone({**plug, **model, "out": "all"})
    assert [spec.stride for spec in backbone.out_features.values()] == [2, 4, 8, 16, 32]
