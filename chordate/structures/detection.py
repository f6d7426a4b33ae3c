"""Structures for detection, instance segmentation and keypoints: targets, proposals, sampled RoIs and detections.

Shapes: `N` images, `G` targets per image (including padding), `P` proposals per image, `K` keypoints per object, `D`
detections. Boxes are `x1, y1, x2, y2` in pixels, in continuous coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import hotcoco
import torch
from torch import Tensor

from chordate.errors import DataError
from chordate.structures.batch import ImageInfo, Prediction, Sample, Targets, TensorStruct
from chordate.structures.layout import Layout
from chordate.structures.metadata import DatasetMeta
from chordate.structures.statistics import Statistic, box_statistics, count_value, keypoint_statistics

BITMAP_SIZE = 112  # height and width in pixels of an instance's bitmap mask, which covers only the instance's box
# The number of targets is padded to these sizes, above 64 to multiples of 128: few distinct shapes avoid recompilation.
SLOTS = (8, 16, 32, 64)
TINY, THIN = 4, 20  # boxes with a side below TINY pixels, or an aspect ratio above THIN, may be annotation errors
INSTANCE_FIELDS = ("boxes", "labels", "crowd", "keypoints", "masks", "has_mask")


@dataclass
class InstanceTargets(Targets):
    """Ground truth padded to `G` instances per image. In padding, `valid` is false and boxes are zeros.

    Attributes:
        boxes: `[N, G, 4]` float32.
        labels: `[N, G]` int64, 0 … classes-1; no background class.
        valid: `[N, G]` bool, true for annotations (crowd or not), false for padding.
        crowd: `[N, G]` bool, whether the annotation covers a group of objects. Crowds are never targets, and their area
            is not background.
        masks: `[N, G, 112, 112]` uint8 0/1, each covering its instance's box, or None.
        keypoints: `[N, G, K, 3]` float32, x, y and COCO's visibility (0, 1 or 2), or None.
        has_mask: `[N, G]` bool, whether the instance's mask is known; heads train only on known masks. None if all
            masks are known.
    """

    legend: ClassVar[str] = (
        "every instance has its own color; a dashed box is a crowd, a group of objects that is neither an object to "
        "learn nor background"
    )
    counted: ClassVar[str] = "instances"

    boxes: Annotated[Tensor, Layout("N", "G", 4, dtype=torch.float32)]
    labels: Annotated[Tensor, Layout("N", "G", dtype=torch.int64)]
    valid: Annotated[Tensor, Layout("N", "G", dtype=torch.bool)]
    crowd: Annotated[Tensor, Layout("N", "G", dtype=torch.bool)]
    masks: Annotated[Tensor, Layout("N", "G", BITMAP_SIZE, BITMAP_SIZE, dtype=torch.uint8)] | None = None
    keypoints: Annotated[Tensor, Layout("N", "G", "K", 3, dtype=torch.float32)] | None = None
    has_mask: Annotated[Tensor, Layout("N", "G", dtype=torch.bool)] | None = None

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> Self:
        counts = [count_instances(sample) for sample in samples]
        slots = slots_for(max(counts))

        def pack(name: str) -> Tensor:
            first = samples[0][name]
            packed = torch.zeros(len(samples), slots, *first.shape[1:], dtype=first.dtype)
            for sample, count, into in zip(samples, counts, packed):
                into[:count] = sample[name]
            return packed

        return cls(
            boxes=pack("boxes"),
            labels=pack("labels"),
            valid=torch.arange(slots) < torch.tensor(counts)[:, None],
            crowd=pack("crowd"),
            masks=pack("masks") if "masks" in samples[0] else None,
            keypoints=pack("keypoints") if "keypoints" in samples[0] else None,
            has_mask=pack("has_mask") if "has_mask" in samples[0] else None,
        )

    def class_labels(self) -> Tensor:
        return self.labels

    def class_counts(self, classes: int) -> Tensor:
        return torch.bincount(self.labels[self.valid & ~self.crowd], minlength=classes)

    def suspicions(self, index: int) -> tuple[str, ...]:
        boxes = self.boxes[index][self.valid[index] & ~self.crowd[index]]
        short, long = (boxes[:, 2:] - boxes[:, :2]).aminmax(dim=1) if len(boxes) else (torch.zeros(0),) * 2
        rows = torch.cat((boxes, self.labels[index][self.valid[index] & ~self.crowd[index]][:, None]), dim=1)
        phrases = {
            "no instances": not self.valid[index].any(),
            f"boxes under {TINY} px": (short < TINY).any(),
            f"boxes over {THIN}:1": (long > THIN * short).any(),
            "the same box twice": len(rows.unique(dim=0)) < len(rows),
        }
        return tuple(phrase for phrase, is_found in phrases.items() if is_found)

    def statistics(self, meta: DatasetMeta) -> dict[str, Statistic]:
        """The sizes and aspect ratios of the boxes, the instances per image, and the labeled keypoints, if any."""
        single = self.valid & ~self.crowd
        statistics = box_statistics(self.boxes[single]) | {"instances per image": count_value(int(single.sum()))}
        if self.keypoints is not None and meta.skeleton is not None:
            statistics |= keypoint_statistics(self.keypoints[single], meta.skeleton.names)
        return statistics

    def describe(self, index: int) -> str:
        crowds = int((self.valid & self.crowd)[index].sum())
        count = int(self.valid[index].sum()) - crowds
        text = f"{count or 'no'} instance{'' if count == 1 else 's'}"
        return f"{text}, {crowds} crowd{'' if crowds == 1 else 's'}" if crowds else text


def slots_for(instances: int) -> int:
    """Round the largest number of instances per image up to the padded number: 8, 16, 32, 64, 128, 256, 384 …"""
    return next((size for size in SLOTS if size >= instances), -(-instances // 128) * 128)


def count_instances(sample: Sample) -> int:
    """The number of instances in a sample, which must be equal in all fields.

    Raises:
        DataError: the fields have different numbers of instances.
    """
    counts = {name: len(sample[name]) for name in INSTANCE_FIELDS if name in sample}
    if "polygons" in sample:
        counts["polygons"] = sample["polygons"].count
    if len(set(counts.values())) > 1:
        where = f"{sample['info'].path}: " if "info" in sample else ""
        raise DataError(
            f"{where}after the pipeline the numbers of instances differ: "
            + ", ".join(f"{count} {name}" for name, count in counts.items())
            + "; use SanitizeInstances, which drops instances from all fields, instead of SanitizeBoundingBoxes"
        )
    return counts["boxes"]


@dataclass
class Proposals(TensorStruct):
    """Boxes that may contain an object, a fixed number per image.

    Attributes:
        boxes: `[N, P, 4]` in pixels of the padded batch.
        scores: `[N, P]` objectness logits.
        valid: `[N, P]` bool, false for padding.
        sizes: `[N, 2]` int64, height and width of each image without padding.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor
    sizes: Tensor


@dataclass
class SampledRoIs(TensorStruct):
    """Regions sampled for training the RoI heads, padded to `S` per image, foreground regions first.

    Attributes:
        boxes: `[N, S, 4]` in pixels of the padded batch.
        labels: `[N, S]` int64, the class of a foreground region; the number of classes for background.
        gt_index: `[N, S]` int64, for a foreground region, index of the matched target; arbitrary for background.
        is_foreground: `[N, S]` bool.
        valid: `[N, S]` bool, false for padding.
        sizes: `[N, 2]` int64, height and width of each image without padding.
        max_positives: only the first `max_positives` regions can be foreground, so heads that train only on foreground
            can ignore the others.
    """

    boxes: Tensor
    labels: Tensor
    gt_index: Tensor
    is_foreground: Tensor
    valid: Tensor
    sizes: Tensor
    max_positives: int


@dataclass
class PaddedDetections(TensorStruct):
    """Detections of a batch, padded to `D` per image, highest score first, as exported models compute them.

    Attributes:
        boxes: `[N, D, 4]` in pixels of the padded batch; zeros in padding.
        scores: `[N, D]`, 0 … 1; 0 in padding.
        labels: `[N, D]` int64, indices of the model's classes; -1 in padding.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The boxes `[N * D, 4]`, and the image index and label (0 in padding) of each box, both `[N * D]` int64."""
        return self.boxes.flatten(0, 1), image_of_rows(self.labels), self.labels.clamp(min=0).flatten()


def image_of_rows(padded: Tensor) -> Tensor:
    """The image index `[N * S]` int64 of each row, after padded values `[N, S, …]` are flattened to `[N * S, …]`."""
    images, slots = padded.shape[:2]
    return torch.arange(images, device=padded.device)[:, None].expand(-1, slots).flatten()


@dataclass
class Detections(Prediction):
    """Objects detected in one image, highest score first.

    Attributes:
        boxes: `[D, 4]` in pixels of the original image.
        scores: `[D]`, 0 … 1.
        labels: `[D]` int64, indices of the model's classes.
        masks: `[D, H, W]` bool, at the size of the original image, or None.
        keypoints: `[D, K, 3]`, x and y in pixels of the original image, and score (a logit), or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Self:
        """The detections selected by a tensor of indices, a slice or a boolean mask."""
        return self.map_tensors(lambda tensor: tensor[index])

    def to_original(self, info: ImageInfo, size: Tensor) -> Self:
        """Scale boxes and keypoints from pixels of the batch to pixels of the original image; masks are unchanged."""
        original = torch.tensor([info.width, info.height], dtype=torch.float64, device=size.device)
        scale = (original / size.flip(-1)).to(self.boxes.dtype)
        keypoints = self.keypoints
        if keypoints is not None:
            keypoints = torch.cat((keypoints[..., :2] * scale.to(keypoints.dtype), keypoints[..., 2:]), dim=-1)
        return type(self)(self.boxes * scale.repeat(2), self.scores, self.labels, self.masks, keypoints)

    def above(self, score_threshold: float) -> Self:
        return self[self.scores >= score_threshold]

    def describe(self) -> str:
        return f"{len(self) or 'no'} detection{'' if len(self) == 1 else 's'}"

    def to_records(self, meta: DatasetMeta) -> list[dict[str, Any]]:
        """One record per detection with `class`, `score` and `box` in pixels.

        With masks, a record also has `mask` (COCO RLE); with keypoints, also `keypoints`, a dict from keypoint name to
        x, y and score (a logit).
        """
        records: list[dict[str, Any]] = [
            {"class": meta.classes[label], "score": round(score, 4), "box": [round(x, 2) for x in box]}
            for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist())
        ]
        if self.masks is not None:
            for record, mask in zip(records, encode_masks(self.masks)):
                record["mask"] = mask
        if self.keypoints is not None and meta.skeleton is not None:
            names = meta.skeleton.names
            for record, points in zip(records, self.keypoints.tolist()):
                record["keypoints"] = {name: [round(x, 2) for x in point] for name, point in zip(names, points)}
        return records


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Convert masks `[D, H, W]` bool to COCO's compressed RLE: `size` (height, width), and `counts` as a string."""
    if not len(masks):
        return []
    encoded = hotcoco.mask.encode(masks.cpu().numpy().transpose(1, 2, 0))
    return [{"size": list(one["size"]), "counts": one["counts"].decode()} for one in encoded]
