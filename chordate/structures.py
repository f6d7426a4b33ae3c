"""The typed data that flows: a padded batch in, proposals between the heads, detections out.

Batches are padded and batch-first. `N` images, `G` target slots an image, `P` proposals an image,
`K` keypoints, `D` detections. Boxes are `x1, y1, x2, y2` in pixels, continuous coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

BITMAP_SIZE = 112  # an instance's mask travels as a bitmap of this side, in the frame of its own box


class _Movable:
    """Gives a dataclass of tensors `to` and `pin_memory`; nested ones move too, everything else stays."""

    def _map(self, function: Any) -> Self:
        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return value._map(function) if isinstance(value, _Movable) else value

        return type(self)(**{f.name: move(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass
class InstanceTargets(_Movable):
    """Ground truth, padded to `G` slots an image. Padding has `valid` false and boxes of zeros.

    Attributes:
        boxes: `[N, G, 4]` float32.
        labels: `[N, G]` int64, 0 … classes-1; there is no background class here.
        valid: `[N, G]` bool, the slot holds an annotation (crowd or not).
        crowd: `[N, G]` bool, the annotation covers a group: never learnt, and what it covers is not background.
        masks: `[N, G, 112, 112]` uint8 0/1 in the frame of the instance's box, or None.
        keypoints: `[N, G, K, 3]` float32 x, y and visibility 0/1/2, or None.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None


@dataclass
class ClassTargets(_Movable):
    """Ground truth of a classification: one class an image.

    Attributes:
        labels: `[N]` int64, 0 … classes-1; of blended images their shares of the classes, `[N, classes]`.
    """

    labels: Tensor


@dataclass(frozen=True)
class Skeleton:
    """The keypoints that a data set annotates and a model finds, and the lines drawn between them.

    Attributes:
        names: of the `K` keypoints: "left_eye" …
        bones: pairs of keypoints that a line joins, counted from 0.
    """

    names: tuple[str, ...]
    bones: tuple[tuple[int, int], ...] = ()

    @property
    def mirrored(self) -> tuple[int, ...]:
        """The keypoint that each becomes in a mirror: its name with left and right (or l and r, words of their own)
        exchanged, where there is such a one, else itself."""
        places = {name: place for place, name in enumerate(self.names)}
        return tuple(places.get(_other_side(name), place) for name, place in places.items())

    def to_dict(self) -> dict[str, Any]:
        """As plain lists, for checkpoints."""
        return {"names": list(self.names), "bones": [list(bone) for bone in self.bones]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        return cls(tuple(plain["names"]), tuple((int(a), int(b)) for a, b in plain.get("bones", ())))


_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


def _other_side(name: str) -> str:
    def exchanged(match: re.Match[str]) -> str:
        word = match[0]
        other = _SIDES[word.lower()]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return re.sub(r"left|right|(?<![a-z])[lr](?![a-z])", exchanged, name, flags=re.IGNORECASE)


@dataclass
class ImageInfo:
    """Where a picture comes from.

    Attributes:
        image_id: the data set's own id.
        path: the file, for messages and pictures.
        height, width: of the picture as it is displayed, in pixels, before any transform.
    """

    image_id: int
    path: str
    height: int
    width: int


@dataclass
class Batch(_Movable):
    """Images padded at the right and the bottom to one size, and what is known of each.

    Attributes:
        images: `[N, 3, H, W]` uint8 (or float, 0 … 255) RGB; the model normalises them on the device.
        sizes: `[N, 2]` int64, height and width of each picture within the padding.
        infos: one ImageInfo an image.
        targets: ground truth (InstanceTargets of detectors, ClassTargets of classifiers), or None.
    """

    images: Tensor
    sizes: Tensor
    infos: list[ImageInfo]
    targets: Any = None

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass
class Proposals(_Movable):
    """Boxes that may hold an object, a fixed number an image.

    Attributes:
        boxes: `[N, P, 4]` in pixels of the padded batch.
        scores: `[N, P]` objectness logits.
        valid: `[N, P]` bool, false for slots that hold nothing.
        sizes: `[N, 2]` int64, height and width of each image within the padding.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor
    sizes: Tensor


@dataclass
class SampledRoIs(_Movable):
    """Regions drawn for the RoI heads to learn from, `S` slots an image, positive ones first.

    Attributes:
        boxes: `[N, S, 4]` in pixels of the padded batch.
        labels: `[N, S]` int64, the class of a positive region, else the number of classes (background).
        index: `[N, S]` int64, the ground-truth slot that a positive region answers for; any for others.
        positive: `[N, S]` bool.
        valid: `[N, S]` bool, false for slots that hold nothing.
        sizes: `[N, 2]` int64, height and width of each image within the padding.
        most_positive: no slot from here on is positive, so that a head that learns from positives alone
            needs only the leading ones.
        regions: `[R, C, S, S]` what the box head's trunk made of the rows that `Slots(valid)` gives, for a head that
            shares that trunk; None before the box head has seen them, or where its trunk gives vectors.
    """

    boxes: Tensor
    labels: Tensor
    index: Tensor
    positive: Tensor
    valid: Tensor
    sizes: Tensor
    most_positive: int
    regions: Tensor | None = None


@dataclass
class Detections(_Movable):
    """What was found in one image, best first.

    Attributes:
        boxes: `[D, 4]` in pixels of the original image.
        scores: `[D]` 0 … 1.
        labels: `[D]` int64 index into the model's classes.
        masks: `[D, H, W]` bool, or None.
        keypoints: `[D, K, 3]` x, y and score, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Self:
        """The detections that an index, a slice or a boolean mask picks."""
        return self._map(lambda tensor: tensor[index])


@dataclass
class Classification(_Movable):
    """What one image shows.

    Attributes:
        scores: `[classes]` probabilities, 0 … 1; they add up to 1, or are each class's own where a model was
            trained with binary losses.
    """

    scores: Tensor

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The best so many classes, best first, with their probabilities."""
        scores, labels = self.scores.topk(min(count, len(self.scores)))
        return list(zip(labels.tolist(), scores.tolist()))
