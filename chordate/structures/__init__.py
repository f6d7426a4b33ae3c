"""Typed data structures: batches, and the targets and predictions of each task."""

from chordate.structures.batch import Batch, ImageInfo, Prediction, Sample, Targets, TensorStruct, collate_images
from chordate.structures.classification import Classification, ClassTargets
from chordate.structures.detection import BITMAP_SIZE, Detections, InstanceTargets, Proposals, SampledRoIs
from chordate.structures.layout import Layout
from chordate.structures.metadata import DatasetMeta, Skeleton

__all__ = [
    "BITMAP_SIZE",
    "Batch",
    "ClassTargets",
    "Classification",
    "DatasetMeta",
    "Detections",
    "ImageInfo",
    "InstanceTargets",
    "Layout",
    "Prediction",
    "Proposals",
    "Sample",
    "SampledRoIs",
    "Skeleton",
    "Targets",
    "TensorStruct",
    "collate_images",
]
