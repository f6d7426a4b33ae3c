"""Checks the annotations of very large files when they are read, and reports their problems."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
import torch
from numpy.typing import NDArray

from chordate.data.annotation_reader import AnnotationReader
from chordate.data.file_ids import id_in_file
from chordate.data.findings import Findings, Health

UNREPORTED, REPORTED = 1, 2  # states of images with problems


class UncheckedAnnotations:
    """The annotations of a very large file that were not checked when it was opened.

    The loader's processes only mark the images with problems, in memory that they share with the main process. The main
    process reads the annotations of these images again to count their problems (`report`).

    Args:
        image_ids: `[images]` int64, ids of the dataset's images, ascending.
        category_ids: ids of the used categories.
        keypoint_counts: see `AnnotationReader`.
        source, health: see `Findings.lines`.
    """

    def __init__(
        self,
        image_ids: NDArray[np.int64],
        category_ids: Collection[int],
        keypoint_counts: Mapping[int, int],
        source: str,
        health: Health,
    ):
        self.image_ids, self.category_ids, self.keypoint_counts = image_ids, category_ids, keypoint_counts
        self.source, self.health = source, health
        self._states = torch.zeros(len(image_ids), dtype=torch.uint8).share_memory_()

    def check(
        self, annotations: Sequence[dict[str, Any]], image_id: int, size: tuple[int, int]
    ) -> list[dict[str, Any]]:
        """Check the annotations of one image; returns the valid ones, repaired where necessary.

        Args:
            annotations: the image's annotations in the index.
            image_id: its id.
            size: its height and width.

        Raises:
            DataError: `health` is "error" and there are invalid records.
        """
        findings = Findings()
        kept = self._read(annotations, size, findings)
        findings.lines(self.source, self.health)  # raises if `health` is "error" and records are invalid
        row = int(np.searchsorted(self.image_ids, image_id))
        if findings and not self._states[row]:
            self._states[row] = UNREPORTED
        return kept

    def unreported(self) -> list[int]:
        """Indices of the images that were read and whose problems have not been reported yet."""
        return (self._states == UNREPORTED).nonzero()[:, 0].tolist()

    def report(self, index: hotcoco.COCO, rows: Sequence[int]) -> list[str]:
        """Report the problems of the images `rows`, except images that were already reported.

        Args:
            index: the opened annotation file.
            rows: indices of images with problems: the results of `unreported` on all ranks.

        Returns:
            The lines of `Findings.lines`.
        """
        findings, rows = Findings(), [row for row in rows if self._states[row] != REPORTED]
        for image_id in self.image_ids[rows].tolist():
            image = index.load_imgs([image_id])[0]
            annotations = index.load_anns(index.get_ann_ids(img_ids=image_id))
            used = [annotation for annotation in annotations if annotation["category_id"] in self.category_ids]
            self._read(used, (image["height"], image["width"]), findings)
        self._states[rows] = REPORTED
        return findings.lines(self.source, self.health)

    def _read(
        self, annotations: Sequence[dict[str, Any]], size: tuple[int, int], findings: Findings
    ) -> list[dict[str, Any]]:
        reader, kept = AnnotationReader(self.keypoint_counts, findings), []
        for annotation in annotations:
            fields = reader.read(annotation, id_in_file(annotation), annotation["category_id"], size)
            if fields is not None:
                kept.append({name: annotation[name] for name in ("id", "image_id", "category_id")} | fields)
        return kept
