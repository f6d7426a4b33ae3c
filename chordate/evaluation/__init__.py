"""What judges detections: metrics that gather over ranks and give plain numbers."""

from chordate.evaluation.accuracy import AccuracyMetric
from chordate.evaluation.coco import CocoMetric

__all__ = ["AccuracyMetric", "CocoMetric"]
