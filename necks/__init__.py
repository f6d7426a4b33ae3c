"""Necks: feature maps to feature maps. Importing the package registers every one in NECKS."""

from chordate.necks.fpn import FPN

__all__ = ["FPN"]
