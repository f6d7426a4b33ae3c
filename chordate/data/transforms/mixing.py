"""Functions shared by transforms that mix images: draw other samples, pad to one size, concatenate instances."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, TVTensor, wrap

from chordate.data.instance_keypoints import InstanceKeypoints
from chordate.data.polygons import Polygons
from chordate.errors import ConfigError
from chordate.models.preprocess import IMAGENET_MEAN

Sample = dict[str, Any]
FILL = [round(mean) for mean in IMAGENET_MEAN]  # color of padding: about 0 after normalization


def check_instances(sample: Sample, name: str) -> None:
    """Raise ConfigError unless a sample has the fields of a detection sample; `name` is the name of the transform.

    Transforms call this even if they leave the sample unchanged, so that the first sample of a run raises the error.
    """
    if missing := [field for field in ("boxes", "labels", "crowd") if field not in sample]:
        raise ConfigError(
            f"{name} combines the instances of several images, but the dataset's samples have no {missing[0]}; remove "
            f"this transform, or use a detection dataset"
        )


def draw_partners(sample: Sample, count: int, name: str) -> list[Sample]:
    """Draw `count` random samples of the same dataset, transformed by the earlier transforms of the pipeline.

    Returns an empty list if `sample` was itself drawn for mixing, so mixing does not recurse.

    Args:
        sample: a sample whose "partner" is a function that draws another sample, or None if `sample` was itself drawn.
        count: number of samples to draw.
        name: name of the transform, for messages.

    Raises:
        ConfigError: the sample has no "partner".
    """
    if "partner" not in sample:
        raise ConfigError(
            f"{name} mixes several samples; the dataset must pass a function that reads a random sample: "
            "`pipeline(sample, draw=…)`"
        )
    draw: Callable[[], Sample] | None = sample["partner"]
    return [] if draw is None else [draw() for _ in range(count)]


def moved(sample: Sample, functional: Callable[..., Any], *arguments: Any) -> Sample:
    """Apply a v2 functional to the sample's image and targets (its tv_tensors)."""
    return {
        name: functional(value, *arguments) if isinstance(value, TVTensor) else value for name, value in sample.items()
    }


def same_size(samples: Sequence[Sample]) -> list[Sample]:
    """Pad all samples at the bottom and the right to the largest height and the largest width."""
    sizes = [sample["image"].shape[-2:] for sample in samples]
    height, width = (max(sides) for sides in zip(*sizes))
    fill = {Image: FILL, "others": 0}
    return [v2.Pad([0, 0, width - w, height - h], fill=fill)(sample) for sample, (h, w) in zip(samples, sizes)]


def join(image: Tensor, samples: Sequence[Sample]) -> Sample:
    """A sample with `image` and the instances of all `samples`; other fields come from the first of them."""
    first, size = samples[0], (image.shape[-2], image.shape[-1])

    def cat(name: str) -> Tensor:
        return torch.cat([sample[name].as_subclass(Tensor) for sample in samples])

    joined: Sample = {**first, "image": Image(image)}
    joined["boxes"] = wrap(cat("boxes"), like=first["boxes"], canvas_size=size)
    joined.update({name: cat(name) for name in ("labels", "crowd", "has_mask") if name in first})
    if "polygons" in first:
        joined["polygons"] = Polygons.cat([sample["polygons"] for sample in samples])
    if "keypoints" in first:
        mirrored = first["keypoints"].mirrored
        joined["keypoints"] = InstanceKeypoints(cat("keypoints"), mirrored=mirrored, canvas_size=size)
    return joined
