"""What judges detections and classifications: metrics that gather over ranks and give plain numbers."""

from chordate.evaluation.accuracy import AccuracyMetric
from chordate.evaluation.coco_metric import CocoMetric
from chordate.evaluation.ensemble import Ensemble

__all__ = ["AccuracyMetric", "CocoMetric", "Ensemble"]
