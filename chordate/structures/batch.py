"""Batches of images, and the base classes of targets and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from chordate.errors import ConfigError
from chordate.structures.metadata import DatasetMeta
from chordate.structures.statistics import Statistic

Sample = dict[str, Any]  # keys: `image`, `info`, and the fields of the image's targets


class TensorStruct:
    """Base class of dataclasses with tensors; `to` and `pin_memory` return a copy with all tensors moved or pinned."""

    def map_tensors(self, function: Any) -> Self:
        """Apply `function` to each tensor, also in nested structures; other fields are unchanged. Returns a copy."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return value.map_tensors(function) if isinstance(value, TensorStruct) else value

        return type(self)(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self.map_tensors(lambda tensor: tensor.pin_memory())


class Targets(TensorStruct):
    """Base class of a task's ground truth for one batch. A subclass is a dataclass of tensors and implements `collate`.

    Fields annotated with a `Layout` are checked on the first sample of a dataset when a run starts.

    Attributes:
        legend: a phrase on the page of `chordate browse` that explains how targets are drawn, or an empty string.
        counted: name of the objects that `class_counts` counts; counts of "pixels" are shown as percentages.
    """

    legend: ClassVar[str] = ""
    counted: ClassVar[str] = "images"

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> Self:
        """Collate the targets of a batch.

        Args:
            samples: one sample of the dataset per image.
            size: height and width of the padded images of the batch, in pixels.

        Raises:
            DataError: the samples cannot be collated, e.g. because their fields differ.
        """
        raise NotImplementedError(f"{cls.__name__}.collate")

    def describe(self, index: int) -> str:
        """A short description of the targets of one image, such as "3 instances"; empty by default."""
        return ""

    def image_labels(self) -> Tensor | None:
        """The class of each image, `[N]` int64, for tasks with one class per image; None by default."""
        return None

    def class_labels(self) -> Tensor | None:
        """All class indices in the targets, integers of any shape, for tasks with classes; None by default.

        They are checked in every batch: 0 … classes-1, or `IGNORED`.
        """
        return None

    def class_counts(self, classes: int) -> Tensor | None:
        """Number of objects of each class in the batch, `[classes]` int64, for `chordate check`.

        By default, counts the images by their `image_labels`; None without them.
        """
        labels = self.image_labels()
        return None if labels is None else torch.bincount(labels[labels >= 0], minlength=classes)

    def statistics(self, meta: DatasetMeta) -> dict[str, Statistic]:
        """Additional statistics of the targets of one image for `chordate check`, keyed by title.

        `merge_statistics` merges the statistics of all images.

        Args:
            meta: metadata of the dataset.
        """
        return {}

    def suspicions(self, index: int) -> tuple[str, ...]:
        """Possible errors in the ground truth of one image: short phrases by which `chordate check` groups images."""
        return ()


class Prediction(TensorStruct):
    """Base class of a model's output for one image. A subclass is a dataclass of tensors.

    Attributes:
        display_threshold: minimum score of the objects that are drawn and that `chordate predict` writes, by default.
    """

    display_threshold: ClassVar[float] = 0.5

    def to_original(self, info: ImageInfo, size: Tensor) -> Self:
        """Transform the prediction to pixels of the original image. By default, returns it unchanged.

        Args:
            info: ImageInfo of the original image.
            size: `[2]`, height and width of the image in the batch, without padding.
        """
        return self

    def above(self, score_threshold: float) -> Self:
        """Keep the objects that score at least `score_threshold`. By default, returns the prediction unchanged."""
        return self

    def describe(self) -> str:
        """A short description of the prediction, such as "3 detections"; empty by default."""
        return ""

    @classmethod
    def mean(cls, predictions: Sequence[Self]) -> Self:
        """Average several models' predictions for one image, for ensembles.

        Raises:
            ConfigError: predictions of this type cannot be averaged.
        """
        raise ConfigError(f"{cls.__name__} cannot be averaged for an ensemble; test one model at a time")

    def to_records(self, meta: DatasetMeta) -> list[dict[str, Any]]:
        """Convert the prediction to JSON-serializable dicts, one per object, or one for the image."""
        raise NotImplementedError(f"{type(self).__name__}.to_records")


@dataclass
class ImageInfo:
    """Id, file and original size of an image.

    Attributes:
        image_id: the id of the image in its dataset.
        path: path of the image file, for messages and captions.
        height, width: size of the image as read (see `read_image`), in pixels, before any transform.
    """

    image_id: int
    path: str
    height: int
    width: int


@dataclass
class Batch(TensorStruct):
    """Images padded at the right and the bottom to one size, with an ImageInfo per image, and targets.

    Attributes:
        images: `[N, C, H, W]` RGB, uint8 or float, 0 … 255; the model normalizes them on the device. A dataset that
            overrides `collate` may add dimensions between C and H, for example `[N, C, T, H, W]` for clips.
        sizes: `[N, 2]` int64, height and width of each image without padding.
        infos: one ImageInfo per image.
        targets: ground truth, a subclass of Targets for the task, or None.
    """

    images: Tensor
    sizes: Tensor
    infos: list[ImageInfo]
    targets: Any = None

    def __len__(self) -> int:
        return self.images.shape[0]


def collate_images(samples: Sequence[Sample], target_type: type[Targets] | None, size_divisor: int = 1) -> Batch:
    """Collate samples into a Batch, with images padded with zeros at the right and the bottom.

    Args:
        samples: dicts with `image` `[C, H, W]`, `info`, and the fields that `target_type.collate` reads.
        target_type: type of the targets; None for a batch without targets.
        size_divisor: height and width are padded to multiples of this number.

    Raises:
        ValueError: the images have different numbers of channels.
        DataError: the targets cannot be collated.
    """
    images = [sample["image"] for sample in samples]
    if len(channels := {len(image) for image in images}) > 1:  # one channel would be copied to all
        raise ValueError(f"images of {' and '.join(map(str, sorted(channels)))} channels in one batch")
    sizes = torch.tensor([image.shape[-2:] for image in images])
    height, width = (-(-int(side) // size_divisor) * size_divisor for side in sizes.amax(0))
    padded = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for image, into in zip(images, padded):
        into[:, : image.shape[-2], : image.shape[-1]] = image
    targets = None if target_type is None else target_type.collate(samples, (height, width))
    return Batch(padded.as_subclass(Tensor), sizes, [sample["info"] for sample in samples], targets)
