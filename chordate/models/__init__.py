"""Whole models. Importing the package registers every one in MODELS."""

from chordate.models.two_stage import TwoStageDetector

__all__ = ["TwoStageDetector"]
