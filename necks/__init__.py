"""Necks, which compute feature maps from the backbone's. Importing the package registers them in NECKS."""

from chordate.necks.fpn import FPN

__all__ = ["FPN"]
