"""Metrics, which collect predictions batch by batch, gather them over ranks, and compute values by name."""

from chordate.evaluation.accuracy import AccuracyMetric
from chordate.evaluation.coco_metric import CocoMetric
from chordate.evaluation.pose_metric import PoseMetric
from chordate.evaluation.semantic_metric import SemanticMetric

__all__ = ["AccuracyMetric", "CocoMetric", "PoseMetric", "SemanticMetric"]
