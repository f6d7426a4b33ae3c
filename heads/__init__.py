"""Heads: predictions from feature maps. Importing the package registers them in HEADS."""

from chordate.heads.box import BoxHead
from chordate.heads.cascade import CascadeHead
from chordate.heads.keypoint import KeypointHead
from chordate.heads.linear import ClassificationHead
from chordate.heads.mask import MaskHead
from chordate.heads.retina import RetinaHead
from chordate.heads.rpn import RPNHead
from chordate.heads.trunk import ConvFC, StageTrunk

__all__ = [
    "BoxHead",
    "CascadeHead",
    "ClassificationHead",
    "ConvFC",
    "KeypointHead",
    "MaskHead",
    "RPNHead",
    "RetinaHead",
    "StageTrunk",
]
