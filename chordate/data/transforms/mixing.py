"""What transforms of several pictures share: other samples, one size for all, and one list of instances."""

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
FILL = [round(mean) for mean in IMAGENET_MEAN]  # where there is no picture: about 0 once it is normalised


def draw_partners(sample: Sample, count: int, name: str) -> list[Sample]:
    """`count` random samples of the same data set, each after the transforms that stand before this one.

    A partner is not mixed with others itself: for one, there are none.

    Args:
        sample: its `partner` is what the pipeline offers: a function that draws one, or None.
        count: how many.
        name: of the transform, for messages.

    Raises:
        ConfigError: the sample has no instances, or nothing offers others.
    """
    if "boxes" not in sample:
        raise ConfigError(f"{name}: it joins the instances of several pictures, but these have none, only a class")
    if "partner" not in sample:
        raise ConfigError(f"{name}: its data set offers no other samples; it must call its pipeline with `draw`")
    draw: Callable[[], Sample] | None = sample["partner"]
    return [] if draw is None else [draw() for _ in range(count)]


def moved(sample: Sample, functional: Callable[..., Any], *arguments: Any) -> Sample:
    """The picture and all that lies in it, moved by a functional of v2."""
    return {
        name: functional(value, *arguments) if isinstance(value, TVTensor) else value for name, value in sample.items()
    }


def same_size(samples: Sequence[Sample]) -> list[Sample]:
    """All with the greatest height and the greatest width among them, padded at the bottom and the right."""
    sizes = [sample["image"].shape[-2:] for sample in samples]
    height, width = (max(sides) for sides in zip(*sizes))
    fill = {Image: FILL, "others": 0}
    return [v2.Pad([0, 0, width - w, height - h], fill=fill)(sample) for sample, (h, w) in zip(samples, sizes)]


def join(image: Tensor, samples: Sequence[Sample]) -> Sample:
    """The instances of all samples on one picture of the same size; what else there is comes from the first."""
    first, size = samples[0], (image.shape[-2], image.shape[-1])

    def together(name: str) -> Tensor:
        return torch.cat([sample[name].as_subclass(Tensor) for sample in samples])

    joined: Sample = {**first, "image": Image(image)}
    joined["boxes"] = wrap(together("boxes"), like=first["boxes"], canvas_size=size)
    joined.update({name: together(name) for name in ("labels", "crowd")})
    if "polygons" in first:
        joined["polygons"] = Polygons.joined([sample["polygons"] for sample in samples])
    if "keypoints" in first:
        mirrored = first["keypoints"].mirrored
        joined["keypoints"] = InstanceKeypoints(together("keypoints"), mirrored=mirrored, canvas_size=size)
    return joined
