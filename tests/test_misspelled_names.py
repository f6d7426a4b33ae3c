"""A config name that does not exist is an error that names the wrong part and similar names."""

import re

import pytest

from chordate.config import load_config
from chordate.errors import ConfigError


@pytest.mark.parametrize("name", ["_" * 1000, "a" * 3000, f"{'a' * 300}/x.py"], ids=["words", "word", "path"])
def test_a_very_long_name_is_unknown(name):
    with pytest.raises(ConfigError, match="unknown config|no such config file") as error:
        load_config(name)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["resnet20_cifar10b", "plain56_cifar101", "resnet20_cifar100_3x"])
def test_every_suggestion_for_a_misspelled_cifar_name_is_a_config(name):
    with pytest.raises(ConfigError) as error:
        load_config(name)
    suggestions = re.findall('"([^"]+)"', str(error.value).partition("did you mean")[2])
    assert suggestions and all(load_config(suggestion) for suggestion in suggestions)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask-rcnn_convnext_tinny_fpn_1x_coco", 'unknown backbone "convnext_tinny"; did you mean "convnext_tiny"'),
        ("resnet51_imagenet", 'unknown backbone "resnet51"; did you mean .*"resnet50"'),
        ("resnet57_cifar100", 'unknown backbone "resnet57"; did you mean "resnet56"'),
        ("retinanet_efficientnet_b0_fpn_1x_coco", r'efficientnet_b0 is in timm .*dict\(type="TimmBackbone"'),
        ("mask-rcn_r50_fpn_1x_coco", 'unknown family "mask-rcn"; did you mean "mask-rcnn_r50_fpn_1x_coco"'),
        ("faster_rcnn_r50_fpn_1x_coco", 'unknown family "faster_rcnn"; did you mean "faster-rcnn_r50_fpn_1x_coco"'),
        ("r50_fpn_1x_coco", 'the family is missing; did you mean .*"faster-rcnn_r50_fpn_1x_coco"'),
        ("mask-rcnn_r18_fpn_2x_coco", 'no config has "2x" there; did you mean "mask-rcnn_r18_fpn_.x_coco"'),
        (
            "mask-rcnn_convnext_tiny_1x_coco",
            'no config has "1x" there; did you mean .*"mask-rcnn_convnext_tiny_fpn_1x_',
        ),
        ("resnet18_imagnet", 'no config has "imagnet" there; did you mean "resnet18_imagenet"'),
        ("resnet50", 'the name is incomplete; did you mean .*"resnet50_imagenet"'),
        ("wide_resnet101_2", 'the name is incomplete; did you mean "wide_resnet101_2_imagenet"'),
        ("wrn28_10_cifar", 'the name is incomplete; did you mean "wrn28_10_cifar10"'),
        ("densenet100_12", '"densenet100_12" is for CIFAR; did you mean "densenet100_12_cifar10"'),
        ("wrn28_10_imagenet", '"wrn28_10" is for CIFAR; did you mean "wrn28_10_cifar10"'),
        ("faster-rcnn_wrn28_10_fpn_1x_coco", '"wrn28_10" is for CIFAR; did you mean "wrn28_10_cifar10"'),
        (
            "resnet50_i384_imagenet",
            'only convnext has "i384_imagenet"; did you mean "resnet50_imagenet" or "convnext_base_i384_imagenet"',
        ),
        ("resnet50_i224_imagenet", 'only resnetrs has "i224_imagenet"; did you mean "resnet50_imagenet"'),
        (
            "resnet20_dropout_cifar10",
            'only wrn has "dropout_cifar10"; did you mean "resnet20_cifar10" or "wrn28_10_dropout_cifar10"',
        ),
        ("resnet20_dropout_cifar100", 'only wrn has "dropout_cifar100"; did you mean "resnet20_cifar100"'),
        ("yolov8n", "`chordate list models` lists all models"),
        ("detr_r50_coco", "`chordate list models PATTERN` the models that match$"),
        ("fcos_r50_fpn_1x_coco", 'unknown family "fcos"; see `chordate list models r50_fpn_1x_coco`$'),
        ("mask-rcnn_banana_fpn_1x_coco", 'unknown backbone "banana"; `chordate list backbones` lists all backbones$'),
        ("unet", 'did you mean "unet_r18_camvid"'),
        ("deeplabv2", 'did you mean "deeplabv2_r101_d8_20k_voc-aug"'),
    ],
)
def test_an_invalid_name_is_an_error_that_names_the_unknown_part(name, message):
    with pytest.raises(ConfigError, match=f'^unknown config "{name}".*{message}'):
        load_config(name)
