"""Formats of other libraries, one file a library. Importing the package registers every one in FORMATS."""

from chordate.weights.formats import timm, torchvision

__all__ = ["timm", "torchvision"]
