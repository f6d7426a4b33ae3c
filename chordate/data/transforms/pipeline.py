"""A config's list of transforms made into one; and torchvision's v2 transforms in the registry."""

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

    Between them, boxes are told the picture's size again: v2 forgets to for a picture without any, and rounds an
    expanded rotation's otherwise, and its next transform would stop at the contradiction.

    Raises:
        DataError: a transform fails; the message names it and the picture.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, sample: Sample, draw: Callable[[], Sample] | None = None) -> Sample:
        """The sample after all transforms.

        Args:
            sample: of a data set.
            draw: reads another sample at random, for transforms that mix several. They find it as
                `sample["partner"]()`, after the transforms that stand before them.
        """
        for number, transform in enumerate(self.transforms):
            if draw is not None:
                sample = {**sample, "partner": partial(self._partner, number, draw)}
            sample = _applied(transform, sample)
        return {name: value for name, value in sample.items() if name != "partner"}

    def _partner(self, count: int, draw: Callable[[], Sample]) -> Sample:
        """Another sample after the first `count` transforms; it has no partners itself, so that few are read."""
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
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{where}{type(transform).__name__} failed: {told}") from error
    return sample


def build_pipeline(transforms: Sequence[Any]) -> Pipeline:
    """The transforms of a config one after another, as one.

    Args:
        transforms: dicts with `type`, names, or built transforms.

    Raises:
        ConfigError: an unknown transform or argument, one that blends whole batches, or one that scales or
            normalises the image: models do that themselves, on the device, from 0 … 255.
    """
    built = [TRANSFORMS.build(transform) for transform in transforms]
    for transform in built:
        scales = isinstance(transform, v2.ToDtype) and transform.scale
        if scales or isinstance(transform, v2.Normalize | v2.ConvertImageDtype | v2.ToTensor):
            raise ConfigError(
                f"{type(transform).__name__}: leave it out of the pipeline; the model takes images of 0 … 255 "
                f"and normalises them itself"
            )
        if isinstance(transform, v2.MixUp | v2.CutMix):
            raise ConfigError(
                f"{type(transform).__name__}: it blends batches, not single pictures; write it into the `mix` of a "
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


# What a config file says in words, and the object that v2 wants.
_WORDS: dict[str, Callable[[Any], Any]] = {
    "dtype": lambda value: _dtype(value) if isinstance(value, str) else value,
    "interpolation": lambda value: _interpolation(value) if isinstance(value, str) else value,
    "transforms": lambda value: [TRANSFORMS.build(transform) for transform in value],
}


def _from_words(cls: type[nn.Module], words: set[str]) -> Callable[..., nn.Module]:
    def build(**arguments: Any) -> nn.Module:
        said = {name: _WORDS[name](value) for name, value in arguments.items() if name in words}
        return cls(**{**arguments, **said})

    build.__name__, build.__doc__, build.__module__ = cls.__name__, cls.__doc__, cls.__module__
    build.__signature__ = inspect.signature(cls)  # type: ignore[attr-defined]
    return build


for _name, _cls in vars(v2).items():
    if isinstance(_cls, type) and issubclass(_cls, v2.Transform) and _cls is not v2.Transform:
        _words = _WORDS.keys() & inspect.signature(_cls).parameters.keys()
        TRANSFORMS.register_module(name=_name, module=_from_words(_cls, _words) if _words else _cls)
