"""Transforms of samples: torchvision's v2 transforms under their v2 names, and several that v2 lacks."""

import chordate.data.polygon_kernels  # noqa: F401  (registers the kernels of Polygons)
from chordate.data.transforms.class_limited_crop import ClassLimitedCrop
from chordate.data.transforms.color import Lighting, NoiseErasing, PhotometricDistortion
from chordate.data.transforms.copy_paste import CopyPaste
from chordate.data.transforms.mixup import DetectionMixUp
from chordate.data.transforms.mosaic import Mosaic
from chordate.data.transforms.pipeline import build_pipeline
from chordate.data.transforms.resize import LargeScaleJitter, ResizeShortestEdge
from chordate.data.transforms.sanitize import SanitizeInstances
from chordate.data.transforms.top_down_crop import TopDownCrop

__all__ = [
    "ClassLimitedCrop",
    "CopyPaste",
    "DetectionMixUp",
    "LargeScaleJitter",
    "Lighting",
    "Mosaic",
    "NoiseErasing",
    "PhotometricDistortion",
    "ResizeShortestEdge",
    "SanitizeInstances",
    "TopDownCrop",
    "build_pipeline",
]
