"""Necks: feature maps to feature maps. Importing the package registers them in NECKS."""

from chordate.necks.fpn import FPN

__all__ = ["FPN"]
