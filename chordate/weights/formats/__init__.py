"""Checkpoint formats of other libraries, one file per library. Importing the package registers them in FORMATS."""

from chordate.weights.formats import timm, torchvision, torchvision_segmentation

__all__ = ["timm", "torchvision", "torchvision_segmentation"]
