"""Backbones: images to feature maps. Importing the package registers every one in BACKBONES."""

from chordate.backbones import resnet_rs, resnext, senet, wide_cifar, wide_resnet
from chordate.backbones.cifar_resnet import CifarResNet
from chordate.backbones.convnext import ConvNeXt
from chordate.backbones.densenet import DenseNet
from chordate.backbones.from_timm import TimmBackbone
from chordate.backbones.from_torchvision import TorchvisionBackbone
from chordate.backbones.highway import HighwayNet
from chordate.backbones.preact_resnet import CifarPreActResNet, PreActResNet
from chordate.backbones.resnet import ResNet

__all__ = [
    "CifarPreActResNet",
    "CifarResNet",
    "ConvNeXt",
    "DenseNet",
    "HighwayNet",
    "PreActResNet",
    "ResNet",
    "TimmBackbone",
    "TorchvisionBackbone",
    "resnet_rs",
    "resnext",
    "senet",
    "wide_cifar",
    "wide_resnet",
]
