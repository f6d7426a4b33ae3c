"""Checks that a dataset implements `Dataset` correctly, before training or evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from chordate.arguments import validate_arguments
from chordate.data.collate import collate_samples
from chordate.data.dataset import Dataset
from chordate.errors import DataError
from chordate.model_contracts import check_implements
from chordate.structures import Batch, DatasetMeta, ImageInfo, Targets
from chordate.structures.layout import check_layouts


def check_dataset(dataset: Any) -> None:
    """Check the attributes of a dataset, and batches of its first, middle and last sample.

    Raises:
        ConfigError: the dataset is not a Dataset, or does not implement a required method.
        DataError: the dataset is empty, or an attribute, a sample or a batch is invalid; the message names the dataset
            class and the invalid attribute or field.
    """
    check_implements(dataset, Dataset, ["__len__"])
    if type(dataset).__getitem__ is Dataset.__getitem__:
        check_implements(dataset, Dataset, ["read"])
    name, target_type = type(dataset).__name__, dataset.target_type
    try:
        length = len(dataset)
    except (TypeError, ValueError) as error:  # not an int, or negative
        raise DataError(f"{name}.__len__ must return the number of samples, an int ≥ 0: {error}") from error
    if not isinstance(dataset.meta, DatasetMeta):
        raise DataError(f"{name}.meta must be a DatasetMeta, got {_kind(dataset.meta)}")
    if target_type is not None and not (isinstance(target_type, type) and issubclass(target_type, Targets)):
        raise DataError(f"{name}.target_type must be a subclass of Targets or None, got {target_type!r}")
    if dataset.sizes is not None and np.shape(dataset.sizes) != (length, 2):
        raise DataError(f"{name}.sizes must be [{length}, 2], height and width per image, or None")
    if not length:
        raise DataError(f"{name} has no samples; there is nothing to load")
    images = []
    for index in sorted({0, length // 2, length - 1}):
        try:
            images.append(_check_sample(dataset, name, index))
        except DataError as error:
            raise type(error)(f"{error}{f' (sample {index})' if index else ''}", located=error.located) from error
    _check_range(images, name)


def _check_range(images: Sequence[Tensor], name: str) -> None:
    """Check that the pixels of floating-point images are in 0 … 255, not in 0 … 1."""
    high = max(float(image.max()) if image.is_floating_point() and image.numel() else 255.0 for image in images)
    if 0 < high <= 1:
        raise DataError(
            f"{name}: images must have values of 0 … 255, got at most {high:.3g}; remove the scaling to 0 … 1 from the "
            f"dataset or its pipeline, since the model normalizes the images"
        )


def _check_sample(dataset: Dataset, name: str, index: int) -> Tensor:
    """Check a sample, and the batch that contains only this sample. Returns the batch's images."""
    try:
        sample = dataset[0, index]
    except (TypeError, AttributeError):
        if type(dataset).__getitem__ is not Dataset.__getitem__ or isinstance(raw := dataset.read(index), Mapping):
            raise
        raise DataError(
            f"{name}.read must return a dict with image, info and the targets' fields, got {_kind(raw)}"
        ) from None
    if not isinstance(sample, Mapping):
        raise DataError(
            f"{name}: a sample must be a dict with image, info and the targets' fields, got {_kind(sample)}"
        )
    if type(dataset).collate is Dataset.collate:
        image = sample.get("image")
        if not isinstance(image, Tensor) or image.ndim != 3:
            raise DataError(f"{name}: sample['image'] must be a tensor [C, H, W], got {_kind(image)}")
    batch = collate_samples(dataset, [sample])
    if not isinstance(batch, Batch):
        raise DataError(f"{name}.collate must return a Batch, got {_kind(batch)}")
    images, targets = batch.images, batch.targets
    if not isinstance(images, Tensor) or images.ndim < 4 or str(images.dtype) not in ("torch.uint8", "torch.float32"):
        raise DataError(f"{name}: images must be [N, C, H, W] uint8 (or float32, 0 … 255), got {_kind(images)}")
    for info in batch.infos:
        if not isinstance(info, ImageInfo):
            raise DataError(f"{name}: sample['info'] must be an ImageInfo, got {_kind(info)}")
        validate_arguments(type(info), vars(info), f"{name}: sample['info']")
    if dataset.target_type is not None:
        if not isinstance(targets, dataset.target_type):
            wanted = f"{dataset.target_type.__name__} (its target_type)"
            raise DataError(f"{name}: targets must be {wanted}, got {_kind(targets)}")
        check_layouts(targets, name, N=len(batch))
    return images


def _kind(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else type(value).__name__
