"""Published names are configs with the settings and figures that their sources state."""

import re

import pytest
import torchvision

from chordate.config import list_configs, load_config, packaged_configs
from chordate.published import PUBLISHED


@pytest.mark.parametrize(("name", "row"), PUBLISHED.items())
def test_each_published_name_is_a_config_with_the_settings_of_its_row(name, row):
    config = load_config(name)
    for setting, value in row.backbone.items():
        assert config.model.backbone[setting] == value
    if row.recipe and name not in packaged_configs():
        recipe = load_config(row.recipe)
        assert (config.optimizer, config.schedule, config.train) == (recipe.optimizer, recipe.schedule, recipe.train)
        assert config.train_data.pipeline == recipe.train_data.pipeline
        assert config.val_data.pipeline == recipe.val_data.pipeline
    size = re.search(r"_i(\d+)_", name)
    if size:  # _i192_ in a name is the size of the last crop or resize of both pipelines
        sides = [[t["size"] for t in data.pipeline if "size" in t][-1] for data in (config.train_data, config.val_data)]
        assert {side if isinstance(side, int) else max(side) for side in sides} == {int(size[1])}


@pytest.mark.parametrize(
    ("name", "weights", "keys"),
    [
        ("faster-rcnn_r50_fpn_torchvision", "FasterRCNN_ResNet50_FPN", ["box"]),
        ("faster-rcnn_r50_fpn-v2_torchvision", "FasterRCNN_ResNet50_FPN_V2", ["box"]),
        ("mask-rcnn_r50_fpn_torchvision", "MaskRCNN_ResNet50_FPN", ["box", "mask"]),
        ("mask-rcnn_r50_fpn-v2_torchvision", "MaskRCNN_ResNet50_FPN_V2", ["box", "mask"]),
        ("keypoint-rcnn_r50_fpn_torchvision", "KeypointRCNN_ResNet50_FPN", ["box", "kp"]),
        ("retinanet_r50_fpn_torchvision", "RetinaNet_ResNet50_FPN", ["box"]),
        ("retinanet_r50_fpn-v2_torchvision", "RetinaNet_ResNet50_FPN_V2", ["box"]),
    ],
)
def test_torchvisions_figures_are_those_of_its_weights(name, weights, keys):
    module = torchvision.models.detection
    measured = getattr(module, f"{weights}_Weights").DEFAULT.meta["_metrics"]
    measured = measured.get("COCO-val2017-v1") or measured["COCO-val2017"]
    parts = [f"{measured[f'{key}_map']:.1f} {'keypoint' if key == 'kp' else key} AP" for key in keys]
    assert PUBLISHED[name].figure == ", ".join(parts)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("deeplabv3_r50_d8_torchvision", "DeepLabV3_ResNet50"), ("fcn_r50_d8_torchvision", "FCN_ResNet50")],
)
def test_torchvisions_miou_is_that_of_its_weights(name, weights):
    measured = getattr(torchvision.models.segmentation, f"{weights}_Weights").DEFAULT.meta["_metrics"]
    assert PUBLISHED[name].figure == f"{measured['COCO-val2017-VOC-labels']['miou']:.1f} mIoU"


def test_listed_names_are_packaged_or_published():
    assert set(list_configs()) == {*packaged_configs(), *PUBLISHED}
    assert list_configs("mask-rcnn_r101*") == ["mask-rcnn_r101_fpn_3x_coco"]
