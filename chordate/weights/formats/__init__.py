"""Checkpoint formats of other libraries, one file per library. Importing the package registers them in FORMATS."""

from chordate.weights.formats import (
    cifar,
    detectron2,
    detectron2_imagenet,
    detectron2_segmentation,
    mmdetection,
    mmpretrain,
    mmsegmentation,
    simple_baselines,
    timm,
    torchvision,
    torchvision_segmentation,
)

__all__ = [
    "cifar",
    "detectron2",
    "detectron2_imagenet",
    "detectron2_segmentation",
    "mmdetection",
    "mmpretrain",
    "mmsegmentation",
    "simple_baselines",
    "timm",
    "torchvision",
    "torchvision_segmentation",
]
