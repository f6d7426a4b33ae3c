"""Backbones: images to feature maps. Importing the package registers every one in BACKBONES."""

from chordate.backbones.resnet import ResNet

__all__ = ["ResNet"]
