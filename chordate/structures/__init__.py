"""Data structures as typed dataclasses: batches, and the targets and predictions of each task."""

from chordate.structures.batch import Batch, ImageInfo, Prediction, Sample, Targets, TensorStruct, collate_images
from chordate.structures.classification import Classification, ClassTargets
from chordate.structures.detection import BITMAP_SIZE, Detections, InstanceTargets, Proposals, SampledRoIs
from chordate.structures.layout import Layout
from chordate.structures.metadata import DatasetMeta, Skeleton
from chordate.structures.panoptic import PanopticMap, PanopticTargets
from chordate.structures.pose import CropInfo, Poses, PoseTargets
from chordate.structures.semantic import IGNORED, SemanticMap, SemanticTargets
from chordate.structures.statistics import Counts, Statistic, Values

__all__ = [
    "BITMAP_SIZE",
    "IGNORED",
    "Batch",
    "ClassTargets",
    "Classification",
    "Counts",
    "CropInfo",
    "DatasetMeta",
    "Detections",
    "ImageInfo",
    "InstanceTargets",
    "Layout",
    "PanopticMap",
    "PanopticTargets",
    "PoseTargets",
    "Poses",
    "Prediction",
    "Proposals",
    "Sample",
    "SampledRoIs",
    "SemanticMap",
    "SemanticTargets",
    "Skeleton",
    "Statistic",
    "Targets",
    "TensorStruct",
    "Values",
    "collate_images",
]
