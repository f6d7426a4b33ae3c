"""Weights of MMCV's ConvWS layers are loaded as the weights of plain convolutions that compute the same."""

import torch
from backbone_referee import without_init
from test_mm_weights import build, state_of

import chordate
from chordate.weights.checkpoint_conversion import restored
from chordate.weights.loading import load_checkpoint


def mmcv_convolution(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`mmcv.cnn.ConvWS2d.forward`, one filter at a time."""
    outputs = []
    for own in weight:
        mean = own.sum() / own.numel()
        std = ((own - mean) ** 2).sum().div(own.numel() - 1).sqrt()
        outputs.append(torch.conv2d(x, ((own - mean) / (std + eps))[None]))
    return torch.cat(outputs, dim=1)


WEIGHT_STANDARDIZATION = """
model = dict(
    backbone=dict(conv_cfg=dict(type='ConvWS', eps=0.01), norm_cfg=dict(type='GN')),
    neck=dict(conv_cfg=dict(type='ConvWS')),
    roi_head=dict(bbox_head=dict(conv_cfg=dict(type='ConvWS')), mask_head=dict(conv_cfg=dict(type='ConvWS'))))
"""


def test_standardized_weights_are_loaded_as_weights_of_plain_convolutions():
    """The configs `gn+ws`: all convolutions of the backbone and the ConvModules of FPN and heads are ConvWS layers; the
    RPN and the layers that predict are not."""
    state = state_of("mmdet/mask-rcnn_r50_fpn_gn-all_2x_coco")
    with without_init():
        model = build(
            "mmdet/mask-rcnn_r50_fpn_gn-all_2x_coco", {"state_dict": state, "meta": {"cfg": WEIGHT_STANDARDIZATION}}
        )
    layers = {
        "backbone.conv1": ("backbone.conv1", 0.01),
        "backbone.layer2.0.downsample.0": ("backbone.layer2.0.downsample.0", 0.01),
        "neck.lateral_convs.3.conv": ("neck.lateral.c5.0", 1e-5),
        "roi_head.bbox_head.shared_convs.0.conv": ("box.trunk.convs.0.0", 1e-5),
        "roi_head.mask_head.convs.1.conv": ("mask.convs.1.0", 1e-5),
    }
    for theirs, (ours, eps) in layers.items():
        weight, loaded = state[f"{theirs}.weight"][:3], model.state_dict()[f"{ours}.weight"][:3]
        x = torch.randn(1, weight.shape[1], 8, 8)
        torch.testing.assert_close(torch.conv2d(x, loaded), mmcv_convolution(x, weight, eps), rtol=1e-3, atol=1e-3)
    assert torch.equal(model.mask.masks.weight, state["roi_head.mask_head.conv_logits.weight"])
    assert torch.equal(model.rpn.convs[0].weight, state["rpn_head.rpn_conv.weight"])
    report = model.load_report
    assert {f"{ours}.weight" for ours, _ in layers.values()} < {*report.adapted} and not report.skipped
    assert "backbone.bn1.weight" in report.loaded and not {*report.loaded} & {*report.adapted}
    assert str(report).endswith("(ConvWS) is folded into the weights, training goes on without it)")
    back = restored(model, "mmdetection")["state_dict"]  # for MMDetection's plain convolutions
    assert torch.equal(back["neck.lateral_convs.3.conv.weight"], model.neck.lateral["c5"][0].weight)


def test_standardized_weights_of_a_backbone_alone_are_reported():
    backbone = chordate.build_backbone("resnet18")
    state = {f"backbone.{name}": torch.rand_like(x.float()) for name, x in backbone.state_dict().items()}
    state |= {"head.fc.weight": torch.zeros(9, 512), "head.fc.bias": torch.zeros(9)}
    text = "model = dict(backbone=dict(conv_cfg=dict(type='ConvWS')))"
    report = load_checkpoint(backbone, {"state_dict": state, "meta": {"cfg": text}})
    assert "conv1.weight" in report.adapted and "bn1.weight" in report.loaded
    filters = backbone.layer1[0].conv1.weight.detach().flatten(1)
    torch.testing.assert_close(filters.mean(1), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(filters.std(1), torch.ones(64), atol=1e-3, rtol=0)
