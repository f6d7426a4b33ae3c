"""Writes and opens small folders of images and label images, and returns the error messages of opening them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chordate.data import SemanticFolder
from chordate.errors import ConfigError, DataError

SIZE = (12, 16)


def write(root: Path, masks: list[np.ndarray | Image.Image], image_size: tuple[int, int] = SIZE) -> Path:
    """Write black images, and the given label images."""
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number, mask in enumerate(masks):
        Image.new("RGB", image_size[::-1]).save(root / f"images/{number:03}.jpg")
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(root / f"labels/{number:03}.png")
    return root


def masks_of(values: list[int], count: int = 3, dtype: type = np.uint8) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.choice(np.array(values, dtype), SIZE) for _ in range(count)]


def folder(root: Path, classes: list[str], **settings) -> SemanticFolder:
    return SemanticFolder("images", "labels", classes=classes, data_root=root, **settings)


def error(root: Path, classes: list[str], **settings) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        folder(root, classes, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)
