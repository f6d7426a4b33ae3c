"""Checkpoint formats of other libraries, one file per library. Importing the package registers them in FORMATS."""

from chordate.weights.formats import simple_baselines, timm, torchvision, torchvision_segmentation

__all__ = ["simple_baselines", "timm", "torchvision", "torchvision_segmentation"]
