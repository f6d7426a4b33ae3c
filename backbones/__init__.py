"""Backbones, which compute feature maps from images. Importing the package registers them in BACKBONES.

Their base class is `chordate.contracts.Backbone`. The files:

- architectures: `resnet.py` (its variants are in `resnet_variants.py`), `preact_resnet.py`, `densenet.py`,
  `convnext.py`, and for CIFAR `cifar_resnet.py` and `highway.py`; each file except `resnet.py` ends with its variants.
- shared by the architectures: `base.py`, the base class (stem, stages, freezing); `layers.py`, residual blocks and
  shortcuts; `recompute.py`, activation checkpointing.
- backbones from other libraries: `from_timm.py`, `from_torchvision.py`, `from_smp.py`, `from_detectron2.py`,
  `from_mmengine.py`, and their base class in `adapters.py`.
"""

from chordate.backbones import resnet_variants
from chordate.backbones.cifar_resnet import CifarResNet
from chordate.backbones.convnext import ConvNeXt
from chordate.backbones.densenet import DenseNet
from chordate.backbones.from_detectron2 import Detectron2Backbone
from chordate.backbones.from_mmengine import MMBackbone
from chordate.backbones.from_smp import SmpBackbone
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
    "Detectron2Backbone",
    "HighwayNet",
    "MMBackbone",
    "PreActResNet",
    "ResNet",
    "SmpBackbone",
    "TimmBackbone",
    "TorchvisionBackbone",
    "resnet_variants",
]
