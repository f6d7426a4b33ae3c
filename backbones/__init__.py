"""Backbones: images to feature maps. Importing the package registers every one in BACKBONES.

`base.py` is what our architectures derive from, `layers.py` what they consist of, `recompute.py` activation
checkpointing, `adapters.py` the base of networks from other libraries. Every other file is one architecture; named
variants are rows of a table at its end, or in `resnet_variants.py`.
"""

from chordate.backbones import resnet_variants
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
    "resnet_variants",
]
