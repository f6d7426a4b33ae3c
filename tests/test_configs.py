"""Every packaged and published config builds its model, and every packaged config has a docstring."""

import ast
import re

import pytest
import torch

import chordate
from chordate.config import list_configs, load_config, packaged_configs, section
from chordate.data.fallback_meta import fallback_meta
from chordate.published import PUBLISHED
from chordate.registry import BACKBONES

CONFIGS = packaged_configs()
DEEP = re.compile(r"r(es)?(net)?(rs)?(1[05]\d|200|350)_")  # take seconds to build, so they are marked slow
OTHER_CLASSES = re.compile(r"r50c_.*_(ade20k|voc-aug)$")  # like Cityscapes' configs, except for the classes
COCO = [name for name in list_configs() if name.endswith("_coco")]
DENSE = ("deeplab", "fcn", "panoptic", "pspnet", "semantic-fpn", "simple-baselines", "unet")  # folders of configs
FAMILIES = {"r": "ResNet", "x": "ResNeXt"}


def test_a_config_file_exists_only_if_more_than_the_backbone_differs():
    assert len(CONFIGS) <= 61


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * bool(DEEP.search(n) or OTHER_CLASSES.search(n))) for n in CONFIGS],
)
def test_each_packaged_config_builds_its_model(name):
    with torch.device("meta"):
        # A number of classes does not say which are stuff, so configs with stuff keep their own classes.
        meta = fallback_meta(section(load_config(name), "fallback_meta", optional=True))
        count = None if meta and meta.stuff else 3
        model = chordate.build_model(name, num_classes=count, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) > 1e5


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(list_configs()) - set(CONFIGS)))
def test_each_published_config_builds_its_model(name):
    test_each_packaged_config_builds_its_model(name)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_config_has_a_docstring(name):
    assert ast.get_docstring(ast.parse(CONFIGS[name].read_text())), f"{name} has no docstring"


@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name].parent.name in DENSE])
def test_the_docstring_of_a_dense_config_has_the_published_figure_or_says_that_there_is_none(name):
    text = " ".join((ast.get_docstring(ast.parse(CONFIGS[name].read_text())) or "").split())
    if name in PUBLISHED:
        assert PUBLISHED[name].figure in text and "table" in text
    else:
        assert re.search(r"\b[Nn]o (mIoU|PQ|figure) is published|measured by this project", text)


@pytest.mark.parametrize("name", COCO)
def test_the_backbone_is_the_one_in_the_config_name(name):
    """r50 is ResNet-50, x101-64x4d is ResNeXt-101-64x4d, as in MMDetection's config names."""
    family, depth = re.search(r"_([rx])(\d+(?:-\d+x\d+d)?)_", name).groups()
    with torch.device("meta"):
        backbone = BACKBONES.build({**load_config(name).model.backbone, "out": ["c2"]})  # builds no later stages
    assert backbone.name == f"{FAMILIES[family]}-{depth}"


@pytest.mark.parametrize(("schedule", "epochs", "milestones"), [("1x", 12, [8, 11]), ("3x", 36, [27, 33])])
def test_schedules_equal_mmdetections(schedule, epochs, milestones):
    """MMDetection's `schedule_1x` and `ms_3x`: learning rate 0.02 at batch size 16, divided by 10 at each milestone."""
    cfg = load_config(f"faster-rcnn_r50_fpn_{schedule}_coco")
    assert cfg.train.epochs == epochs
    assert list(cfg.schedule.milestones) == milestones
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.02, 0.9, 1e-4)
    assert cfg.optimizer.base_batch_size == 16


@pytest.mark.parametrize("name", CONFIGS)
def test_no_config_sets_channel_or_class_counts(name):
    text = CONFIGS[name].read_text()
    assert "in_channels" not in text and "num_classes" not in text


def test_anchor_sizes_follow_the_backbones_feature_maps():
    """Detectron2's ANCHOR_GENERATOR.SIZES for strides 4 … 64; without c5 there is one level fewer."""
    config = load_config("faster-rcnn_r50_fpn_1x_coco")
    with torch.device("meta"):
        model = chordate.build_model(config, pretrained=False)
        config.model.backbone.out = ["c2", "c3", "c4"]
        smaller = chordate.build_model(config, pretrained=False)
    assert model.rpn.anchors.strides == (4, 8, 16, 32, 64)
    assert smaller.rpn.anchors.strides == (4, 8, 16, 32)
    config.model.backbone.base_channels = 8
    config.model.neck.channels = 8
    sides = chordate.build_model(config, pretrained=False).rpn.anchors.base
    areas = (sides[..., 2] - sides[..., 0]) * (sides[..., 3] - sides[..., 1])
    torch.testing.assert_close(areas.sqrt().mean(1), torch.tensor([32.0, 64, 128, 256]))
