"""Colors in the generated shapes dataset: backgrounds, shading, and colors that differ from the background."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

BACKGROUNDS = ("gradient", "stripes", "checkerboard", "clouds")


def background(rng: np.random.Generator, size: int) -> tuple[NDArray[np.float32], int]:
    """Draw a random background: two colors mixed by a gradient, stripes, a checkerboard or clouds.

    Returns:
        The image `[size, size, 3]` RGB, about 0 … 255, and the index of the pattern in BACKGROUNDS.
    """
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    turn, period = float(rng.uniform(0, np.pi)), float(rng.uniform(0.08, 0.3))
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    pattern = int(rng.integers(4))
    if pattern == 0:
        mix = along
    elif pattern == 1:
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * along / period)
    elif pattern == 2:
        mix = (np.floor(along / period) + np.floor(across / period)) % 2
    else:
        mix = _clouds(rng, size)
    first = rng.uniform(0, 255, 3).astype(np.float32)
    second = np.clip(first + rng.normal(0, 40, 3).astype(np.float32), 0, 255)
    return first + mix[..., None] * (second - first) + shading(rng, size, 20), pattern


def _clouds(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    cells = int(rng.integers(3, 12))
    values = rng.random((cells, cells), np.float32)
    return np.asarray(cv2.resize(values, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def shading(rng: np.random.Generator, size: int, strength: float) -> NDArray[np.float32]:
    """Smooth random brightness changes `[size, size, 1]` of about ±`strength` gray levels."""
    return 2 * strength * (_clouds(rng, size)[..., None] - 0.5)


def contrasting_color(
    rng: np.random.Generator, canvas: NDArray[np.float32], coverage: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Draw three random RGB colors. Returns the one that differs most from the mean of `canvas` `[size, size, 3]`,
    weighted by `coverage` `[size, size]`."""
    below = np.tensordot(coverage, canvas, 2) / coverage.sum()
    colors = rng.uniform(0, 255, (3, 3)).astype(np.float32)
    return colors[np.abs(colors - below).sum(1).argmax()]
