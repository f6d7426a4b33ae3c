"""Checkpoint formats of other libraries, one file per library. Importing the package registers them in FORMATS."""

from chordate.weights.formats import (
    detectron2,
    detectron2_imagenet,
    detectron2_segmentation,
    simple_baselines,
    timm,
    torchvision,
    torchvision_segmentation,
)

__all__ = [
    "detectron2",
    "detectron2_imagenet",
    "detectron2_segmentation",
    "simple_baselines",
    "timm",
    "torchvision",
    "torchvision_segmentation",
]
