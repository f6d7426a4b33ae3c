"""Samples to a Batch: padded to one size, with as many target slots as the fullest image needs."""

from typing import Any

import torch
from torch import Tensor

from chordate.data.transforms.sanitize import count_instances
from chordate.errors import DataError
from chordate.structures import Batch, ClassTargets, InstanceTargets

SIDE_MULTIPLE = 32  # the coarsest stride of the common pyramids, so that every level has whole cells
SLOTS = (8, 16, 32, 64)  # then multiples of 128: few different shapes, so that compiled code is reused


def slots_for(instances: int) -> int:
    """The number of target slots for at most `instances` an image: 8, 16, 32, 64, 128, 256, 384 …"""
    return next((size for size in SLOTS if size >= instances), -(-instances // 128) * 128)


def collate(samples: list[dict[str, Any]], side_multiple: int = SIDE_MULTIPLE) -> Batch:
    """Pack samples into one Batch.

    Images are padded with zeros at the right and the bottom, to multiples of 32; the model normalises by
    `sizes`, so the padding is zero *after* normalisation. Target fields are those of the samples: `boxes`,
    `labels`, `crowd`, and `masks` `[M, 112, 112]` and `keypoints` `[M, K, 3]` where the samples have them;
    or `label`, an image's class: those are not padded.

    Raises:
        DataError: an image's fields disagree on the number of instances, or images to classify on their size.
    """
    images = [sample["image"] for sample in samples]
    sizes = torch.tensor([image.shape[-2:] for image in images])
    if "label" in samples[0]:
        return _to_classify(images, sizes, samples)
    height, width = (-(-int(side) // side_multiple) * side_multiple for side in sizes.amax(0))
    padded = torch.zeros(len(images), images[0].shape[0], height, width, dtype=images[0].dtype)
    for image, into in zip(images, padded):
        into[:, : image.shape[-2], : image.shape[-1]] = image
    infos = [sample["info"] for sample in samples]
    return Batch(padded, sizes, infos, _targets(samples) if "boxes" in samples[0] else None)


def _to_classify(images: list[Tensor], sizes: Tensor, samples: list[dict[str, Any]]) -> Batch:
    if (sizes != sizes[0]).any():
        raise DataError(
            f"images of one batch are {sizes.amin(0).tolist()} to {sizes.amax(0).tolist()} px; end the pipeline with "
            f"RandomResizedCrop, CenterCrop or Resize to one size, or set batch_size=1"
        )
    labels = torch.tensor([sample["label"] for sample in samples])
    return Batch(torch.stack(images), sizes, [sample["info"] for sample in samples], ClassTargets(labels))


def _targets(samples: list[dict[str, Any]]) -> InstanceTargets:
    counts = [count_instances(sample) for sample in samples]
    slots = slots_for(max(counts))

    def pack(name: str) -> Tensor:
        first = samples[0][name]
        packed = torch.zeros(len(samples), slots, *first.shape[1:], dtype=first.dtype)
        for sample, count, into in zip(samples, counts, packed):
            into[:count] = sample[name]
        return packed

    return InstanceTargets(
        boxes=pack("boxes"),
        labels=pack("labels"),
        valid=torch.arange(slots) < torch.tensor(counts)[:, None],
        crowd=pack("crowd"),
        masks=pack("masks") if "masks" in samples[0] else None,
        keypoints=pack("keypoints") if "keypoints" in samples[0] else None,
    )
