"""Pipelines: a config's list of transforms as one; and torchvision's v2 transforms in the registry."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from chordate.errors import ChordateError, ConfigError, DataError, unknown
from chordate.registry import TRANSFORMS

Sample = dict[str, Any]


class Pipeline:
    """Transforms of a sample, one after another.

    After each, boxes get the image's size as their canvas: v2 does not update it where there are no boxes, and rounds
    it differently in an expanded rotation, and its next transform would fail on the mismatch.

    Raises:
        DataError: a transform fails; the message names it and the image.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, sample: Sample, draw: Callable[[], Sample] | None = None) -> Sample:
        """The sample after all transforms.

        Args:
            sample: of a data set.
            draw: reads another sample at random, for transforms that mix several. They call it as
                `sample["partner"]()`, which applies the transforms before them.
        """
        for number, transform in enumerate(self.transforms):
            if draw is not None:
                sample = {**sample, "partner": partial(self._partner, number, draw)}
            sample = _applied(transform, sample)
        return {name: value for name, value in sample.items() if name != "partner"}

    def _partner(self, count: int, draw: Callable[[], Sample]) -> Sample:
        """Another sample after the first `count` transforms; it gets no partners itself, so mixing does not recurse."""
        sample = draw()
        for transform in self.transforms[:count]:
            sample = _applied(transform, {**sample, "partner": None})
        return sample


def _applied(transform: Callable[[Any], Any], sample: Sample) -> Sample:
    try:
        sample = transform(sample)
        for value in sample.values():
            if isinstance(value, BoundingBoxes):
                value.canvas_size = tuple(sample["image"].shape[-2:])
    except ChordateError:
        raise
    except Exception as error:
        where = f"{sample['info'].path}: " if "info" in sample else ""
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{where}{type(transform).__name__} failed: {message}") from error
    return sample


def build_pipeline(transforms: Sequence[Any]) -> Pipeline:
    """Build the pipeline of a config.

    Args:
        transforms: dicts with `type`, names, or built transforms.

    Raises:
        ConfigError: an unknown transform or argument, one that blends whole batches, or one that scales or
            normalizes the image: models do that themselves, on the device, from 0 … 255.
    """
    built = [TRANSFORMS.build(transform) for transform in transforms]
    for transform in built:
        scales = isinstance(transform, v2.ToDtype) and transform.scale
        if scales or isinstance(transform, v2.Normalize | v2.ConvertImageDtype | v2.ToTensor):
            raise ConfigError(
                f"{type(transform).__name__}: leave it out of the pipeline; the model takes images of 0 … 255 "
                f"and normalizes them itself"
            )
        if isinstance(transform, v2.MixUp | v2.CutMix):
            raise ConfigError(
                f"{type(transform).__name__}: it blends batches, not single images; write it into the `mix` of a "
                f"classifier's model. A detector's pipeline takes DetectionMixUp, Mosaic and CopyPaste"
            )
    return Pipeline(built)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(unknown("dtype", name, ("uint8", "float32", "float16", "bfloat16", "float64")))
    return dtype


def _interpolation(name: str) -> v2.InterpolationMode:
    names = [mode.value for mode in v2.InterpolationMode]
    if name not in names:
        raise ConfigError(unknown("interpolation", name, names))
    return v2.InterpolationMode(name)


# Arguments that a config writes as names, and the objects that v2 wants.
_FROM_NAMES: dict[str, Callable[[Any], Any]] = {
    "dtype": lambda value: _dtype(value) if isinstance(value, str) else value,
    "interpolation": lambda value: _interpolation(value) if isinstance(value, str) else value,
    "transforms": lambda value: [TRANSFORMS.build(transform) for transform in value],
}


def _with_names(cls: type[nn.Module], named: set[str]) -> Callable[..., nn.Module]:
    def build(**arguments: Any) -> nn.Module:
        objects = {name: _FROM_NAMES[name](value) for name, value in arguments.items() if name in named}
        return cls(**{**arguments, **objects})

    build.__name__, build.__doc__, build.__module__ = cls.__name__, cls.__doc__, cls.__module__
    build.__signature__ = inspect.signature(cls)  # type: ignore[attr-defined]
    return build


for _name, _cls in vars(v2).items():
    if isinstance(_cls, type) and issubclass(_cls, v2.Transform) and _cls is not v2.Transform:
        _named = _FROM_NAMES.keys() & inspect.signature(_cls).parameters.keys()
        TRANSFORMS.register_module(name=_name, module=_with_names(_cls, _named) if _named else _cls)
