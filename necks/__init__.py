"""Necks, which compute feature maps from the backbone's. Importing the package registers them in NECKS."""

from chordate.necks.fpn import FPN
from chordate.necks.unet import UNet

__all__ = ["FPN", "UNet"]
