"""Metrics: they take predictions batch by batch, gather over ranks and give plain numbers."""

from chordate.evaluation.accuracy import AccuracyMetric
from chordate.evaluation.coco_metric import CocoMetric

__all__ = ["AccuracyMetric", "CocoMetric"]
