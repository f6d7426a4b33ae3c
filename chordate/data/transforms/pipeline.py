"""Builds the transform pipeline of a config, and registers torchvision's v2 transforms."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from chordate.errors import ChordateError, ConfigError, DataError, unknown
from chordate.registry import TRANSFORMS
from chordate.text import one_line

Sample = dict[str, Any]
PACKAGES = ("chordate", "torchvision")


class Pipeline:
    """Applies transforms to a sample, one after another.

    After each transform, the boxes' `canvas_size` is set to the image's size. In a rotation with `expand=True`, v2
    does not update `canvas_size` if there are no boxes, and otherwise may round it differently from the image's size;
    the next v2 transform would then fail.

    Raises:
        DataError: a transform fails; the message names the transform and the image.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, sample: Sample, draw: Callable[[], Sample] | None = None) -> Sample:
        """Apply all transforms to a sample.

        Args:
            sample: a sample of a dataset.
            draw: function that reads a random sample, for transforms that mix several samples. Such a transform calls
                `sample["partner"]()`, which calls `draw` and applies the earlier transforms of the pipeline. If `draw`
                is None, such a transform raises ConfigError.
        """
        for number, transform in enumerate(self.transforms):
            if draw is not None:
                sample = {**sample, "partner": partial(self._partner, number, draw)}
            sample = _apply(transform, sample)
        return {name: value for name, value in sample.items() if name != "partner"}

    def own_transforms(self) -> list[str]:
        """Names of the transforms that are neither Chordate's nor torchvision's, for messages about invalid samples."""
        kinds = map(_kind, _flatten(self.transforms))
        return [kind.__name__ for kind in kinds if str(kind.__module__).partition(".")[0] not in PACKAGES]

    def _partner(self, count: int, draw: Callable[[], Sample]) -> Sample:
        """Draw a sample and apply the first `count` transforms, with "partner" None so that mixing does not recurse."""
        sample = draw()
        for transform in self.transforms[:count]:
            sample = _apply(transform, {**sample, "partner": None})
        return sample


def _flatten(transforms: Sequence[Callable[[Any], Any]]) -> Iterator[Callable[[Any], Any]]:
    """The transforms, with the ones inside torchvision's containers in place of the containers."""
    for transform in transforms:
        if isinstance(transform, v2.Compose | v2.RandomApply | v2.RandomChoice | v2.RandomOrder):
            yield from _flatten(transform.transforms)
        else:
            yield transform


def _kind(transform: Callable[[Any], Any]) -> Any:
    """The function of a transform, or the class of a transform that is an object."""
    while isinstance(transform, partial):
        transform = transform.func
    return transform if hasattr(transform, "__name__") else type(transform)


def _apply(transform: Callable[[Any], Any], sample: Sample) -> Any:
    try:
        result = transform(sample)
        if not isinstance(result, Mapping):
            raise TypeError(f"it must return a dict, got {type(result).__name__}")
        _check_fields(sample, result)
        for value in result.values():
            if isinstance(value, BoundingBoxes):
                value.canvas_size = tuple(result["image"].shape[-2:])
    except ChordateError:
        raise
    except Exception as error:
        where = f"{sample['info'].path}: " if "info" in sample else ""
        message = one_line(f"{type(error).__name__}: {error}")
        raise DataError(f"{where}{_kind(transform).__name__} failed: {message}") from error
    return result


def _check_fields(sample: Sample, result: Mapping[str, Any]) -> None:
    """Check the result of a transform: tensors must be tensors, images must have pixels, boxes must be finite, and
    integers must keep their type. Otherwise, objects would be dropped, or labels rounded, without a message."""
    for name in sample.keys() & result.keys():
        before, after = sample[name], result[name]
        if not isinstance(before, torch.Tensor):
            continue
        if not isinstance(after, torch.Tensor):
            raise TypeError(f"its {name} must be a tensor, got {type(after).__name__}")
        if name == "image" and not after.numel():
            raise ValueError(f"its image has no pixels (shape {tuple(after.shape)})")
        is_integer = type(before) is torch.Tensor and not before.is_floating_point()
        if name != "image" and is_integer and after.dtype != before.dtype:
            raise TypeError(f"its {name} must be {before.dtype}, got {after.dtype}".replace("torch.", ""))
        if isinstance(before, BoundingBoxes) and not after.isfinite().all():
            raise ValueError(f"its {name} are NaN or infinite")


def build_pipeline(transforms: Sequence[Any]) -> Pipeline:
    """Build the pipeline of a config.

    Args:
        transforms: registered names, dicts with `type`, and transform objects.

    Raises:
        ConfigError: a transform or argument is unknown; or a transform blends whole batches, or scales or normalizes
            images (models take values of 0 … 255 and normalize them on the device).
    """
    built = [TRANSFORMS.build(transform) for transform in transforms]
    for transform in built:
        scales = isinstance(transform, v2.ToDtype) and transform.scale
        if scales or isinstance(transform, v2.Normalize | v2.ConvertImageDtype | v2.ToTensor):
            raise ConfigError(
                f"{type(transform).__name__}: remove it from the pipeline; the model takes images of 0 … 255 "
                f"and normalizes them"
            )
        if isinstance(transform, v2.MixUp | v2.CutMix):
            raise ConfigError(
                f"{type(transform).__name__} blends the images of a batch; move it from the pipeline to the "
                f"`mix` of an ImageClassifier. For a detector, use DetectionMixUp, Mosaic or CopyPaste in the pipeline"
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


# For each argument, a function that converts the names or dicts in a config to the objects that v2 expects.
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
