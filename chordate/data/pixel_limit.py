"""Limit on the number of pixels of an image, since a small file can claim a size that fills the memory.

The environment variable CHORDATE_MAX_PIXELS sets another limit.
"""

import os
from pathlib import Path

import PIL.Image

from chordate.errors import ConfigError


def _max_pixels() -> int:
    text = os.environ.get("CHORDATE_MAX_PIXELS") or "178956970"  # Pillow's limit
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigError(f"CHORDATE_MAX_PIXELS must be a positive integer, got {text!r}")
    return int(text)


MAX_PIXELS = _max_pixels()
PIL.Image.MAX_IMAGE_PIXELS = (MAX_PIXELS + 1) // 2  # Pillow warns above this number, and raises above twice this number


def too_many_pixels(path: Path | str) -> str:
    """Error message for an image with more than MAX_PIXELS pixels."""
    return f"{path}: more than {MAX_PIXELS:,} pixels; the environment variable CHORDATE_MAX_PIXELS sets the limit"
