"""`chordate.draw`: draws a prediction on any kind of image that `chordate.predict` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor

from chordate.api import AnyImage, read_images
from chordate.arguments import Fraction, PositiveInt, checked_call
from chordate.errors import ConfigError
from chordate.structures import DatasetMeta
from chordate.visualization import canvas, task_drawing


@checked_call()
def draw(
    prediction: Any,
    image: AnyImage,
    meta: DatasetMeta | None = None,
    *,
    score_threshold: Fraction = 0.0,
    long_side: PositiveInt | None = None,
) -> canvas.Picture:
    """Draw a prediction on its image; `PIL.Image.fromarray(picture).save(path)` writes the result.

    The drawing function for a new type of prediction is registered with `chordate.visualization.draw.register`.

    Args:
        prediction: one of the predictions that `chordate.predict` returns.
        image: the image, as in `chordate.predict`; is not changed.
        meta: class names, skeleton and palette: `model.meta`.
        score_threshold: objects with lower scores are not drawn.
        long_side: longer side of the result in pixels; None for the longer side of `image`, but at least 640.

    Returns:
        A new picture `[H', W', 3]` uint8 RGB.

    Raises:
        ConfigError: `meta` is missing, the arguments are not one prediction and one image, `score_threshold` or
            `long_side` is out of its range, or the prediction's type has no drawing function.
        DataError: the image cannot be read.
    """
    one = not isinstance(image, list | tuple) and getattr(image, "ndim", 3) in (2, 3)
    if meta is None or not one or isinstance(prediction, str | Path | np.ndarray | Tensor | PIL.Image.Image | list):
        got = f"{type(prediction).__name__}, {type(image).__name__}" + ("" if meta is None else ", meta")
        raise ConfigError(f"call draw(prediction, image, model.meta), with one prediction and image; got draw({got})")
    channels = 3
    if isinstance(image, Tensor | np.ndarray) and image.ndim == 3:
        channels = image.shape[0 if isinstance(image, Tensor) else -1]
    pixels, _ = next(read_images(image, channels, meta.white_level))
    picture = canvas.to_picture(pixels)
    return task_drawing.draw(prediction, picture, meta, score_threshold=score_threshold, long_side=long_side)
