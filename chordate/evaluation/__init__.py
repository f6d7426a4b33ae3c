"""Metrics: collect predictions batch by batch, gather them from all ranks, and compute a dict of named values."""

from chordate.evaluation.accuracy import AccuracyMetric
from chordate.evaluation.coco_metric import CocoMetric
from chordate.evaluation.panoptic_metric import PanopticMetric
from chordate.evaluation.pose_metric import PoseMetric
from chordate.evaluation.semantic_metric import SemanticMetric

__all__ = ["AccuracyMetric", "CocoMetric", "PanopticMetric", "PoseMetric", "SemanticMetric"]
