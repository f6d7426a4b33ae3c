"""Heads, which compute predictions from feature maps. Importing the package registers them in HEADS."""

from chordate.heads.box import BoxHead
from chordate.heads.cascade import CascadeHead
from chordate.heads.cascade_mask import CascadeMaskHead
from chordate.heads.deconv import DeconvHead
from chordate.heads.deeplab import DeepLabV2Head, DeepLabV3Head, DeepLabV3PlusHead
from chordate.heads.dual_decoder import CenterOffsetHead, PanopticDeepLabHead
from chordate.heads.fcn import FCNHead
from chordate.heads.keypoint import KeypointHead
from chordate.heads.linear import ClassificationHead
from chordate.heads.mask import MaskHead
from chordate.heads.psp import PSPHead
from chordate.heads.retina import RetinaHead
from chordate.heads.rpn import RPNHead
from chordate.heads.semantic_fpn import SemanticFPNHead
from chordate.heads.smp_decoder import SmpDecoder
from chordate.heads.trunk import ConvFC, StageTrunk

__all__ = [
    "BoxHead",
    "CascadeHead",
    "CascadeMaskHead",
    "CenterOffsetHead",
    "ClassificationHead",
    "ConvFC",
    "DeconvHead",
    "DeepLabV2Head",
    "DeepLabV3Head",
    "DeepLabV3PlusHead",
    "FCNHead",
    "KeypointHead",
    "MaskHead",
    "PSPHead",
    "PanopticDeepLabHead",
    "RPNHead",
    "RetinaHead",
    "SemanticFPNHead",
    "SmpDecoder",
    "StageTrunk",
]
