"""Models for classification, detection, semantic and panoptic segmentation, and pose estimation. Importing the
package registers them in MODELS."""

from chordate.models.classifier import ImageClassifier
from chordate.models.one_stage import OneStageDetector
from chordate.models.panoptic_deeplab import PanopticDeepLab
from chordate.models.pose_estimator import PoseEstimator
from chordate.models.semantic_segmenter import SemanticSegmenter
from chordate.models.two_stage import TwoStageDetector

__all__ = [
    "ImageClassifier",
    "OneStageDetector",
    "PanopticDeepLab",
    "PoseEstimator",
    "SemanticSegmenter",
    "TwoStageDetector",
]
