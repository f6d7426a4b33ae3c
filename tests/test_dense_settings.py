"""The packaged segmentation configs have the networks and settings of the models whose results they cite.

Sources: MMSegmentation's configs (deeplabv3, deeplabv3plus, pspnet, sem_fpn, and their _base_ files), and Detectron2's
Base-Panoptic-FPN.yaml and defaults.py.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import chordate
from chordate.config import load_config
from chordate.contracts import FeatureSpec
from chordate.published import PUBLISHED
from chordate.registry import HEADS

# Training settings: batch size; range of the shorter side before the crop, img_scale · ratio_range (0.5, 2.0); crop
# height and width.
DATA = {
    "cityscapes": (8, (512, 2048), (512, 1024)),  # 4 × 2 images, img_scale (2048, 1024)
    "ade20k": (16, (256, 1024), (512, 512)),  # 4 × 4 images, img_scale (2048, 512)
    "voc-aug": (16, (256, 1024), (512, 512)),
    "coco-stuff": (16, (256, 1024), (512, 512)),  # coco-stuff164k.py
}
MMSEGMENTATION = [name for name, row in PUBLISHED.items() if row.source == "MMSegmentation's model zoo"]


@pytest.mark.parametrize("name", MMSEGMENTATION)
def test_training_settings_equal_mmsegmentations(name):
    """_base_/schedules/schedule_*k.py and _base_/datasets/*.py."""
    cfg = load_config(name)
    batch, (shortest, longest), crop = DATA[name.rsplit("_", 1)[1]]
    optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "base_batch_size": batch}
    assert {key: cfg.optimizer[key] for key in optimizer} == optimizer
    assert (cfg.schedule.type, cfg.schedule.power, 0.01 * cfg.schedule.min_factor) == ("poly", 0.9, 1e-4)
    assert not cfg.schedule.get("warmup_iters")
    assert f"_{cfg.train.iterations // 1000}k_" in name and cfg.train.sync_bn
    resize, cropped, flip, _ = cfg.train_data.pipeline
    assert (resize.type, resize.min_size, resize.max_size - 1) == ("RandomResize", shortest, longest)
    sides = (cropped.size,) * 2 if isinstance(cropped.size, int) else tuple(cropped.size)
    assert (cropped.type, sides, cropped.max_fraction) == ("ClassLimitedCrop", crop, 0.75)
    assert (flip.type, flip.p) == ("RandomHorizontalFlip", 0.5)


# Shapes of the convolution weights of MMSegmentation's heads, in any order.
AUXILIARY = [(256, 1024, 3, 3), (150, 256, 1, 1)]
SEPARABLE = [(2048, 1, 3, 3), (512, 2048, 1, 1)]
SHAPES = {
    "deeplabv3": [(512, 2048, 1, 1)] * 2 + [(512, 2048, 3, 3)] * 3 + [(512, 2560, 3, 3), (150, 512, 1, 1)] + AUXILIARY,
    "deeplabv3plus": [(512, 2048, 1, 1)] * 2
    + SEPARABLE * 3
    + [(512, 2560, 3, 3), (48, 256, 1, 1), (560, 1, 3, 3), (512, 560, 1, 1), (512, 1, 3, 3), (512, 512, 1, 1)]
    + [(150, 512, 1, 1)]
    + AUXILIARY,
    "pspnet": [(512, 2048, 1, 1)] * 4 + [(512, 4096, 3, 3), (150, 512, 1, 1)] + AUXILIARY,
}


@pytest.mark.parametrize("family", SHAPES)
def test_convolutions_have_the_shapes_of_mmsegmentations(family):
    with torch.device("meta"):
        model = chordate.build_model(f"{family}_r50c_d8_80k_ade20k", pretrained=False)
    heads = nn.ModuleList([model.head, model.auxiliary])
    shapes = [tuple(conv.weight.shape) for conv in heads.modules() if isinstance(conv, nn.Conv2d)]
    assert sorted(shapes) == sorted(SHAPES[family])
    assert model.auxiliary_weight == 0.4
    assert [drop.p for drop in heads.modules() if isinstance(drop, nn.Dropout2d)] == [0.1, 0.1]
    assert not [drop for drop in heads.modules() if isinstance(drop, nn.Dropout) and drop.p]


def mmsegmentation_aspp(head: nn.Module, x: Tensor) -> Tensor:
    """Logits of MMSegmentation's ASPPHead (dilations 1, 12, 24, 36) with the weights of our head, in eval mode."""

    def conv_module(module: nn.Sequential, x: Tensor, **settings) -> Tensor:
        conv, norm = module[0], module[1]
        y = F.conv2d(x, conv.weight, **settings)
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu()

    pooled = conv_module(head.aspp.pooled, F.adaptive_avg_pool2d(x, 1))
    outputs = [conv_module(head.aspp.branches[0], x)]
    for branch, dilation in zip(head.aspp.branches[1:], (12, 24, 36), strict=True):
        outputs.append(conv_module(branch, x, padding=dilation, dilation=dilation))
    outputs.append(F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False))
    bottleneck = conv_module(head.aspp.project, torch.cat(outputs, dim=1), padding=1)
    return F.conv2d(bottleneck, head.logits.weight, head.logits.bias)


def test_deeplabv3_computes_the_logits_of_mmsegmentations_head():
    torch.manual_seed(0)
    settings = load_config("deeplabv3_r50c_d8_80k_ade20k").model.head | {"channels": 16}
    head = HEADS.build(settings, facts={"num_classes": 5}, in_features={"c5": FeatureSpec(24, 8)}).double().eval()
    for norm in head.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    x = torch.randn(2, 24, 40, 44, dtype=torch.float64)
    torch.testing.assert_close(head({"c5": x}), mmsegmentation_aspp(head, x))


def test_panoptic_fpn_has_detectron2s_loss_weight_and_merge_thresholds():
    """SEM_SEG_HEAD.LOSS_WEIGHT 0.5, CONVS_DIM 128, NORM GN, COMMON_STRIDE 4; PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT 1, and
    COMBINE: INSTANCES_CONFIDENCE_THRESH 0.5, OVERLAP_THRESH 0.5, STUFF_AREA_LIMIT 4096."""
    with torch.device("meta"):
        model = chordate.build_model("panoptic-fpn_r50_fpn_1x_coco", pretrained=False)
    merge = model.merger.settings
    assert (merge.score_threshold, merge.overlap_threshold, merge.stuff_area) == (0.5, 0.5, 4096)
    assert [loss.loss_weight for loss in model.semantic.losses] == [0.5]
    assert model.semantic.channels == 128 and model.semantic.logits.out_channels == 54  # 53 stuff + 1 for all things
    assert any(isinstance(norm, nn.GroupNorm) for norm in model.semantic.modules())
    cfg = load_config("panoptic-fpn_r50_fpn_1x_coco")
    assert (cfg.optimizer.lr, cfg.optimizer.base_batch_size, cfg.train.epochs) == (0.02, 16, 12)


def test_semantic_fpn_has_mmsegmentations_head():
    """_base_/models/fpn_r50.py: FPN with 256 channels and 4 levels, FPNHead with 128 channels and dropout 0.1."""
    with torch.device("meta"):
        model = chordate.build_model("semantic-fpn_r50c_fpn_160k_ade20k", pretrained=False)
    assert [(spec.channels, spec.stride) for spec in model.neck.out_features.values()] == [
        (256, 4), (256, 8), (256, 16), (256, 32)
    ]  # fmt: skip
    assert model.head.channels == 128 and model.head.dropout.p == 0.1 and model.auxiliary is None
    assert sum(isinstance(norm, nn.BatchNorm2d) for norm in model.head.modules()) == 7  # 1 + 1 + 2 + 3 convolutions
