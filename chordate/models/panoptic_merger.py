"""Class conversion and merging for Panoptic FPN: the instance heads predict the things, the semantic head the stuff."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import Fraction, NonNegativeInt
from chordate.errors import ConfigError
from chordate.head_contracts import HasClassRows
from chordate.ops.argmax_resize import argmax_at_original_size
from chordate.ops.boxes import at_least_float32
from chordate.ops.panoptic_merge import merge_instances_and_stuff
from chordate.ops.panoptic_padded import add_padded_stuff, inside_images, place_masks
from chordate.structures import IGNORED, Batch, DatasetMeta, Detections, InstanceTargets, PaddedDetections, PanopticMap


@dataclass(frozen=True)
class MergeSettings:
    """Settings for merging instances and stuff; the defaults are Detectron2's `PANOPTIC_FPN.COMBINE`.

    Attributes:
        score_threshold: minimum score of an instance.
        overlap_threshold: maximum fraction of an instance's mask that instances with higher scores may cover; instances
            with a larger covered fraction are dropped.
        stuff_area: minimum area of a stuff segment, in pixels of the original image (of the batch in exported models);
            smaller segments are dropped.
    """

    score_threshold: Fraction = 0.5
    overlap_threshold: Fraction = 0.5
    stuff_area: NonNegativeInt = 4096


class PanopticMerger(nn.Module):
    """Converts between the classes of the dataset and the classes of the heads, and merges the outputs of the heads.

    The instance heads predict only the thing classes. In the semantic head, class 0 is all things; the stuff classes
    follow.

    Args:
        meta: metadata of the dataset.
        settings: settings for merging.

    Raises:
        ConfigError: the dataset has no stuff, or no things.
    """

    def __init__(self, meta: DatasetMeta, settings: MergeSettings):
        super().__init__()
        if not meta.stuff or not meta.things:
            raise ConfigError(
                f"TwoStageDetector has a semantic head, but the data has no {'things' if meta.stuff else 'stuff'}; "
                f"train on panoptic data, or set fallback_meta.stuff to the names of the classes that are stuff"
            )
        self.settings = settings
        self.thing_meta = replace(meta, classes=meta.things, stuff=(), palette=None)
        self.semantic_meta = replace(meta, classes=("things", *meta.stuff), stuff=(), palette=None)
        things = [meta.classes.index(name) for name in meta.things]
        stuff = [meta.classes.index(name) for name in meta.stuff]
        as_thing, as_semantic = torch.zeros(len(meta.classes), dtype=torch.int64), torch.zeros(len(meta.classes) + 1)
        as_thing[things] = torch.arange(len(things))
        as_semantic[stuff] = torch.arange(1.0, len(stuff) + 1)
        as_semantic[-1] = IGNORED
        self.class_of_thing: Tensor
        self.class_of_semantic: Tensor
        self.as_thing: Tensor
        self.as_semantic: Tensor
        for name, table in (
            ("class_of_thing", torch.tensor(things)),
            ("class_of_semantic", torch.tensor([-1, *stuff])),
            ("as_thing", as_thing),
            ("as_semantic", as_semantic.short()),
        ):
            self.register_buffer(name, table, persistent=False)

    def thing_targets(self, instances: InstanceTargets) -> InstanceTargets:
        """Convert the labels of targets from the dataset's classes to the instance heads' classes (the things)."""
        return replace(instances, labels=self.as_thing[instances.labels])

    def semantic_labels(self, labels: Tensor) -> Tensor:
        """Convert labels `[N, H, W]` int16 from the dataset's classes to the semantic head's classes."""
        return self.as_semantic[labels.long()]  # IGNORED is -1, so it indexes the last entry

    def confident(self, detections: Sequence[Detections]) -> list[Detections]:
        """The detections with a score of at least `score_threshold`."""
        return [detected.above(self.settings.score_threshold) for detected in detections]

    def merge(self, detections: Sequence[Detections], logits: Tensor, batch: Batch) -> list[PanopticMap]:
        """Merge the detections of each image with the semantic logits.

        Args:
            detections: detections with masks, at the size of the original images.
            logits: `[N, 1 + stuff classes, h, w]`, from the semantic head.
            batch: the batch of images.
        """
        merged = []
        for detected, labels in zip(detections, argmax_at_original_size(logits, batch)):
            stuff = self.class_of_semantic[labels.long()]
            assert detected.masks is not None
            segments = merge_instances_and_stuff(
                detected.masks,
                detected.scores,
                self.class_of_thing[detected.labels],
                stuff,
                self.settings.overlap_threshold,
                self.settings.stuff_area,
            )
            merged.append(PanopticMap(*segments))
        return merged

    def merge_padded(
        self, detections: PaddedDetections, masks: Tensor, logits: Tensor, sizes: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """`merge`, with shapes that do not depend on values, for exported models.

        Args:
            detections: boxes in pixels of the padded batch.
            masks: `[N, D, M, M]`, mask probabilities on a grid of M×M cells over each box.
            logits: `[N, 1 + stuff classes, h, w]`, from the semantic head.
            sizes: `[N, 2]`, heights and widths of the images without padding.
            size: height and width of the padded batch.

        Returns:
            The tensors that `ops/panoptic_padded.py` describes.
        """
        labels = F.interpolate(at_least_float32(logits), size, mode="bilinear").max(dim=1).indices
        stuff = torch.where(inside_images(sizes, size), self.class_of_semantic[labels], -1)
        present = detections.scores >= self.settings.score_threshold
        ids, kept = place_masks(masks, detections.boxes, present, size, self.settings.overlap_threshold)
        things = torch.where(kept, self.class_of_thing[detections.labels.clamp(min=0)], -1)
        scores = torch.where(kept, detections.scores, 0.0)
        return add_padded_stuff(ids, things, scores, stuff, len(self.as_thing), self.settings.stuff_area)


def name_class_rows(heads: Iterable[object], names: str) -> None:
    """Set `ClassRows.names` to `names` in all layers of `heads` that have outputs per class."""
    for head in heads:
        for module in head.modules() if isinstance(head, nn.Module) else ():
            if isinstance(module, HasClassRows):
                module.class_rows = {key: replace(rows, names=names) for key, rows in module.class_rows.items()}
