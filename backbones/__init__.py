"""Backbones: images to feature maps. Importing the package registers every one in BACKBONES."""

from chordate.backbones import resnet_rs, resnext, senet, wide_resnet
from chordate.backbones.cifar_resnet import CifarResNet
from chordate.backbones.resnet import ResNet

__all__ = ["CifarResNet", "ResNet", "resnet_rs", "resnext", "senet", "wide_resnet"]
