"""Chordate's backbones in models of MMDetection, MMSegmentation and MMPretrain, and their backbones in Chordate.

Skipped without these libraries; `mmcv_ops_stub.py` describes how to install them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("mmcv")

import mmcv_ops_stub  # noqa: F401

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("mmpretrain")

from compare_openmmlab import build, read_config
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

import chordate.integrations.mmengine  # noqa: F401
from chordate import BACKBONES
from chordate.weights.loading import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # OpenMMLab's libraries use deprecated functions
SIZE = (64, 96)


def with_our_backbone(library: str, name: str, **settings: Any) -> nn.Module:
    """The model of a config, with random weights, on our SE-ResNeXt-50, which has ResNet-50's numbers of channels."""
    cfg = read_config(library, name)
    cfg.model.backbone = dict(type="chordate.seresnext50_32x4d", **settings)
    torch.manual_seed(0)
    return build(library, cfg)


def check_training(model: nn.Module, images: torch.Tensor, samples: list[Any]) -> None:
    """One training step changes the backbone, but not its frozen stages."""
    inputs = model.data_preprocessor({"inputs": list(images), "data_samples": samples}, training=True)
    losses = model.train()(**inputs, mode="loss")
    total = sum(sum(value) if isinstance(value, list) else value for key, value in losses.items() if "loss" in key)
    assert torch.isfinite(total)
    total.backward()
    trained = {key.split(".")[0] for key, p in model.backbone.backbone.named_parameters() if p.grad is not None}
    assert trained == {"layer2", "layer3", "layer4"}


def test_mmdetections_faster_rcnn_trains_and_predicts_on_our_se_resnext():
    name = "faster_rcnn/faster-rcnn_r50_fpn_1x_coco"
    model = with_our_backbone("mmdet", name, out=["c2", "c3", "c4", "c5"], frozen_stages=1)
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    samples = []
    for _ in images:
        truth = InstanceData(bboxes=torch.tensor([[10.0, 10, 60, 50]]), labels=torch.tensor([3]))
        shapes = {"img_shape": SIZE, "ori_shape": SIZE, "scale_factor": (1.0, 1.0), "batch_input_shape": SIZE}
        samples.append(DetDataSample(metainfo=shapes, gt_instances=truth))
    check_training(model, images, samples)
    predictions = model.eval().test_step({"inputs": list(images), "data_samples": samples})
    assert all(one.pred_instances.bboxes.shape[1] == 4 for one in predictions)


def test_mmsegmentations_deeplab_trains_and_predicts_on_our_dilated_se_resnext():
    name = "deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024"
    model = with_our_backbone("mmseg", name, out=["c2", "c3", "c4", "c5"], frozen_stages=1, output_stride=8)
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    shapes = {"img_shape": SIZE, "ori_shape": SIZE}
    samples = [SegDataSample(metainfo=shapes, gt_sem_seg=PixelData(data=torch.randint(19, (1, *SIZE)))) for _ in images]
    model.data_preprocessor.size = SIZE
    check_training(model, images, samples)
    (logits,) = {tuple(one.seg_logits.data.shape) for one in model.eval().test_step({"inputs": list(images)})}
    assert logits == (19, *SIZE)


def test_mmpretrains_classifier_trains_and_predicts_on_our_se_resnext():
    model = with_our_backbone("mmpretrain", "resnet/resnet50_8xb32_in1k", out=["c5"], frozen_stages=1)
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    check_training(model, images, [DataSample().set_gt_label(label) for label in (1, 7)])
    predictions = model.eval().test_step({"inputs": list(images), "data_samples": [DataSample() for _ in images]})
    assert all(one.pred_score.shape == (1000,) for one in predictions)


@pytest.mark.parametrize(
    ("model", "options", "strides"),
    [
        ("mmdet.ResNet", {"depth": 50}, [4, 8, 16, 32]),
        ("mmdet.ResNeXt", {"depth": 50, "groups": 32, "base_width": 4}, [4, 8, 16, 32]),
        ("mmdet.RegNet", {"arch": "regnetx_400mf"}, [4, 8, 16, 32]),
        ("mmseg.ResNetV1c", {"depth": 50, "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}, [4, 8, 8, 8]),
        ("mmpretrain.ResNet", {"depth": 18, "out_indices": (0, 1, 2, 3)}, [4, 8, 16, 32]),
    ],
)
@torch.no_grad()
def test_a_backbone_of_openmmlab_gives_its_feature_maps_and_loads_its_weights_in_chordate(model, options, strides):
    torch.manual_seed(0)
    config = {"type": "MMBackbone", "model": model, "options": options, "out": ["c2", "c3", "c4", "c5"]}
    ours = BACKBONES.build(config).eval()
    assert [spec.stride for spec in ours.out_features.values()] == strides
    theirs = ours.net.network
    state = {
        name: value + 0.01 * torch.rand_like(value) if value.is_floating_point() else value
        for name, value in theirs.state_dict().items()
    }
    assert not load_checkpoint(ours, state).missing
    assert all(torch.equal(value, state[name]) for name, value in theirs.state_dict().items())
    images = torch.randn(1, 3, *SIZE)
    maps, expected = ours(images), theirs(images)
    for value, own, stride in zip(maps.values(), expected, strides, strict=True):
        assert torch.equal(value, own) and value.shape[-2:] == (SIZE[0] // stride, SIZE[1] // stride)
