"""How a head passes from a padded batch, or from each image's detections, to the rows that its layers work on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from chordate.structures import Detections


class Slots:
    """The rows that stand for `[N, S]` slots: on the CPU those that hold something, on a device all of them.

    Empty slots cost time, but to leave them out is to know how many there are: on a CPU that is free, on a
    GPU it would stop the queue of work, and in a compiled graph it would make every shape depend on data.
    (A BatchNorm behind them takes them into its statistics there; they are few, as samples are mostly full.)

    Attributes:
        image: `[R]` int64, the image of each row.
        present: `[R]` bool, whether the row holds something; where it does not, losses must leave it out.
    """

    def __init__(self, occupied: Tensor):
        images, count = occupied.shape
        image = torch.arange(images, device=occupied.device).repeat_interleave(count, output_size=images * count)
        present = occupied.flatten()
        self._shape = images, count
        self._rows: Tensor | None = None
        if occupied.device.type == "cpu" and not torch.compiler.is_compiling():
            self._rows = present.nonzero()[:, 0]
            image, present = image[self._rows], present[self._rows]
        self.image = image
        self.present = present

    def __call__(self, values: Tensor) -> Tensor:
        """The rows of `values` `[N, S, ...]`, as `[R, ...]`."""
        rows = values.flatten(0, 1)
        return rows if self._rows is None else rows[self._rows]

    def back(self, rows: Tensor, values: Tensor) -> Tensor:
        """The reverse: `values` `[N, S, ...]` with `rows` `[R, ...]` in the places that they came from."""
        if self._rows is None:
            return rows.view_as(values)
        flat = values.flatten(0, 1).clone()
        flat[self._rows] = rows
        return flat.view_as(values)

    def of_leading(self, rows: Tensor, leading: "Slots") -> Tensor:
        """Of `rows` `[R, ...]` those that `leading`, which is of each image's first slots alone, works on."""
        if self._rows is None or leading._rows is None:
            return rows.unflatten(0, self._shape)[:, : leading._shape[1]].flatten(0, 1)
        place = leading.image * self._shape[1] + leading._rows % leading._shape[1]
        return rows[torch.searchsorted(self._rows, place)]


def rows_of(detections: Sequence[Detections]) -> tuple[Tensor, Tensor]:
    """The boxes of all images' detections as rows, `[R, 4]`, and the image of each, `[R]` int64."""
    boxes = torch.cat([found.boxes for found in detections])
    image = torch.cat([found.labels.new_full((len(found),), number) for number, found in enumerate(detections)])
    return boxes, image
