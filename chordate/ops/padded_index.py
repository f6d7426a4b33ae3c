"""Flattens padded RoIs, or the detections of several images, to rows `[R, …]` for the layers of RoI heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chordate.structures import Detections


class PaddedIndex:
    """Maps padded positions `[N, S]` to rows `[R]`: on the CPU only the valid positions, on a GPU all positions.

    Dropping padding saves computation, but requires a data-dependent shape. That costs nothing on the CPU, but needs a
    host sync on a GPU, and in a compiled graph all later shapes would depend on the data; so padding is kept there.
    (BatchNorm statistics then include the padding, which has little effect, since most sampled positions are valid.)

    Args:
        occupied: `[N, S]` bool, false for padding.
        leading: use only the first `leading` positions of each image; None for all.

    Attributes:
        image: `[R]` int64, image index of each row.
        present: `[R]` bool, false for rows of padding, which losses ignore.
    """

    def __init__(self, occupied: Tensor, leading: int | None = None):
        occupied = occupied[:, :leading]
        images, slots = occupied.shape
        image = torch.arange(images, device=occupied.device).repeat_interleave(slots, output_size=images * slots)
        present = occupied.flatten()
        self._shape = images, slots
        self._rows: Tensor | None = None
        if occupied.device.type == "cpu" and not torch.compiler.is_compiling():
            self._rows = present.nonzero()[:, 0]
            image, present = image[self._rows], present[self._rows]
        self.image = image
        self.present = present

    def flatten(self, values: Tensor) -> Tensor:
        """Flatten padded values `[N, S, ...]` to rows `[R, ...]`; on the CPU, padding is dropped."""
        rows = values[:, : self._shape[1]].flatten(0, 1)
        return rows if self._rows is None else rows[self._rows]

    def unflatten(self, rows: Tensor, padded: Tensor) -> Tensor:
        """The inverse of `flatten`: `padded` `[N, S, ...]` with `rows` `[R, ...]` written to their positions."""
        if self._rows is None:
            return rows.view_as(padded)
        flat = padded.flatten(0, 1).clone()
        flat[self._rows] = rows
        return flat.view_as(padded)

    def select(self, rows: Tensor, subset: PaddedIndex) -> Tensor:
        """Select from `rows` `[R, ...]` the rows of `subset`, a PaddedIndex of a subset of this index's positions."""
        slots = subset._shape[1]
        if self._rows is None or subset._rows is None:
            return rows.unflatten(0, self._shape)[:, :slots].flatten(0, 1)
        position = subset.image * self._shape[1] + subset._rows % slots
        return rows[torch.searchsorted(self._rows, position)]


def cat_boxes(detections: Sequence[Detections]) -> tuple[Tensor, Tensor]:
    """Concatenate the boxes of all images, `[R, 4]`; also returns the image index of each box, `[R]` int64."""
    boxes = torch.cat([one.boxes for one in detections])
    image = torch.cat([one.labels.new_full((len(one),), number) for number, one in enumerate(detections)])
    return boxes, image
