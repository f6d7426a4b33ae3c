"""Checkpoint formats of other libraries, one file per library. Importing the package registers them in FORMATS."""

from chordate.weights.formats import cifar, simple_baselines, timm, torchvision, torchvision_segmentation

__all__ = ["cifar", "simple_baselines", "timm", "torchvision", "torchvision_segmentation"]
