"""Panoptic segmentation: targets, and predictions with one segment (a thing or a region of stuff) per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor

from chordate.structures.batch import Prediction, Sample, Targets
from chordate.structures.detection import InstanceTargets, encode_masks
from chordate.structures.layout import Layout
from chordate.structures.metadata import DatasetMeta
from chordate.structures.semantic import IGNORED, SemanticTargets, label_statistics, label_suspicions
from chordate.structures.statistics import Statistic
from chordate.text import pluralize


@dataclass
class PanopticTargets(Targets):
    """Ground truth of panoptic segmentation: the things, the class of each pixel, and the thing at each pixel.

    Attributes:
        instances: the things; labels are indices into all classes of the dataset, things and stuff.
        labels: `[N, H, W]` int16, the class of each pixel; `IGNORED` for pixels without a segment and padding.
        slots: `[N, H, W]` int16, the index in `instances` of the thing (or crowd) at each pixel; `IGNORED` for all
            other pixels.
    """

    instances: InstanceTargets
    labels: Annotated[Tensor, Layout("N", "H", "W", dtype=torch.int16)]
    slots: Annotated[Tensor, Layout("N", "H", "W", dtype=torch.int16)]

    legend: ClassVar[str] = (
        "colors are classes, and each thing has its own shade; a crowd, a group of things that is neither a thing to "
        "learn nor background, has an outline but no tint; other pixels without a tint are ignored"
    )
    counted: ClassVar[str] = "segments"

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> Self:
        """Collate the fields of InstanceTargets, and the LabelMaps `semantic` and `slots`."""
        maps = [
            SemanticTargets.collate([{**sample, "labels": sample[name]} for sample in samples], size).labels
            for name in ("semantic", "slots")
        ]
        return cls(InstanceTargets.collate(samples, size), *maps)

    def class_labels(self) -> Tensor:
        return self.labels

    def class_counts(self, classes: int) -> Tensor:
        """Per class: for things, the number of objects (without crowds); for stuff, the number of images with it."""
        counts = self.instances.class_counts(classes)
        for index in range(len(self.labels)):
            counts[self.stuff(index)] += 1
        return counts

    def stuff(self, index: int) -> Tensor:
        """The classes of the stuff in an image, `[C]` int64, each once, ascending."""
        labels = self.labels[index]
        return labels[(self.slots[index] == IGNORED) & (labels != IGNORED)].unique().long()

    def statistics(self, meta: DatasetMeta) -> dict[str, Statistic]:
        """The statistics of the things (sizes of their boxes, things per image) and of the labeled pixels."""
        things = self.instances.statistics(meta)
        things["things per image"] = things.pop("instances per image")
        return things | label_statistics(self.labels)

    def suspicions(self, index: int) -> tuple[str, ...]:
        things = [phrase for phrase in self.instances.suspicions(index) if phrase != "no instances"]
        return (*things, *label_suspicions(self.labels[index]))

    def describe(self, index: int) -> str:
        valid, crowd = self.instances.valid[index], self.instances.crowd[index]
        segments = describe_segments(int((valid & ~crowd).sum()), len(self.stuff(index)))
        crowds = int((valid & crowd).sum())
        return f"{segments}, {pluralize(crowds, 'crowd')}" if crowds else segments


@dataclass
class PanopticMap(Prediction):
    """Predicted segments of one image, at the size of the original image.

    Attributes:
        ids: `[H, W]` int32, segment id of each pixel, 1 … `S`; 0 for pixels without a segment.
        labels: `[S]` int64, class of each segment.
        is_thing: `[S]` bool, whether each segment is a thing.
        scores: `[S]`, 0 … 1; 1 for stuff.
        areas: `[S]` int64, number of pixels of each segment.
    """

    ids: Annotated[Tensor, Layout("H", "W", dtype=torch.int32)]
    labels: Tensor
    is_thing: Tensor
    scores: Tensor
    areas: Tensor

    display_threshold: ClassVar[float] = 0.0  # the model has already chosen the segments, and PQ counts all of them

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, keep: Tensor) -> Self:
        """Keep the segments where `keep` `[S]` bool is True, and renumber them."""
        numbers = torch.cat([keep.new_zeros(1, dtype=torch.int32), keep.cumsum(0).int() * keep])
        segments = {name: getattr(self, name)[keep] for name in ("labels", "is_thing", "scores", "areas")}
        return replace(self, ids=numbers[self.ids.long()], **segments)

    def above(self, score_threshold: float) -> Self:
        return self.select(self.scores >= score_threshold)

    def masks(self) -> Tensor:
        """The mask of each segment, `[S, H, W]` bool."""
        return self.ids == torch.arange(1, len(self) + 1, device=self.ids.device)[:, None, None]

    def boxes(self) -> Tensor:
        """The smallest box around each segment, `[S, 4]` int64 x1, y1, x2, y2 in pixels (x2 and y2 exclusive)."""
        return segment_boxes(self.ids, len(self))

    def describe(self) -> str:
        things = int(self.is_thing.sum())
        return describe_segments(things, len(self) - things)

    def to_records(self, meta: DatasetMeta) -> list[dict[str, Any]]:
        """One record with `segments_info` as in COCO's panoptic format: for each segment `id`, `class` (the name),
        `isthing`, `score`, `area` in pixels, `bbox` (x, y, width, height), and `mask` as COCO RLE, which replaces the
        PNG of segment ids."""
        corners = self.boxes().tolist()
        columns = (self.labels, self.is_thing, self.scores, self.areas)
        rows = zip(*(column.tolist() for column in columns), corners, encode_masks(self.masks()))
        segments = [
            {
                "id": number,
                "class": meta.classes[label],
                "isthing": int(is_thing),
                "score": round(score, 4),
                "area": area,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "mask": mask,
            }
            for number, (label, is_thing, score, area, (x1, y1, x2, y2), mask) in enumerate(rows, 1)
        ]
        return [{"segments_info": segments}]


def describe_segments(things: int, stuff: int) -> str:
    """Count segments in words that are equal for the ground truth and for predictions."""
    return f"{pluralize(things, 'thing')}, {pluralize(stuff, 'stuff segment')}"


def segment_boxes(ids: Tensor, count: int) -> Tensor:
    """Compute the smallest box around each of `count` segments.

    Args:
        ids: `[H, W]` integers, segment id of each pixel, 1 … `count`; 0 for pixels without a segment.
        count: number of segments.

    Returns:
        Boxes `[count, 4]` int64 x1, y1, x2, y2 in pixels (x2 and y2 exclusive); all 0 for an id that does not occur.
    """
    height, width = ids.shape
    ids = ids.long()
    extents = []
    for size, dim in ((width, 1), (height, 0)):  # the columns and the rows in which each segment has pixels
        place = torch.arange(size, device=ids.device).unsqueeze(1 - dim).expand_as(ids)
        occupied = torch.zeros(count + 1, size, dtype=torch.bool, device=ids.device)
        occupied[ids.flatten(), place.flatten()] = True
        position = torch.arange(size, device=ids.device)
        first = torch.where(occupied, position, size).amin(1)
        after = torch.where(occupied, position + 1, 0).amax(1)
        extents.append((first.minimum(after)[1:], after[1:]))
    (x1, x2), (y1, y2) = extents
    return torch.stack([x1, y1, x2, y2], dim=1)
