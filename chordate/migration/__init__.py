"""Converts configs of Detectron2, MMDetection and MMSegmentation to Chordate configs, without executing them."""

from chordate.migration.config_file import convert_file

__all__ = ["convert_file"]
