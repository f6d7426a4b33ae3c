"""Importing the package registers its backbone, head and dataset."""

from chordate_disks import backbone, dataset, head

__all__ = ["backbone", "dataset", "head"]
