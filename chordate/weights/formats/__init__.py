"""Checkpoint formats of other libraries. Importing the package registers them in FORMATS."""

from chordate.weights.formats import (
    cifar_classifiers,
    detectron2_detectors,
    detectron2_imagenet,
    detectron2_panoptic,
    detectron2_segmentation,
    openmmlab_classifiers,
    openmmlab_detectors,
    openmmlab_segmentation,
    simple_baselines,
    smp_segmentation,
    timm,
    torchvision,
    torchvision_detectors,
    torchvision_segmentation,
)

__all__ = [
    "cifar_classifiers",
    "detectron2_detectors",
    "detectron2_imagenet",
    "detectron2_panoptic",
    "detectron2_segmentation",
    "openmmlab_classifiers",
    "openmmlab_detectors",
    "openmmlab_segmentation",
    "simple_baselines",
    "smp_segmentation",
    "timm",
    "torchvision",
    "torchvision_detectors",
    "torchvision_segmentation",
]
