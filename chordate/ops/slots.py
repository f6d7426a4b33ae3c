"""Slots: how a head passes from a padded batch to the rows that its layers work on."""

import torch
from torch import Tensor


class Slots:
    """The rows that stand for `[N, S]` slots: on the CPU those that hold something, on a device all of them.

    Empty slots cost time, but to leave them out is to know how many there are: on a CPU that is free, on a
    GPU it would stop the queue of work, and in a compiled graph it would make every shape depend on data.

    Attributes:
        image: `[R]` int64, the image of each row.
        present: `[R]` bool, whether the row holds something; where it does not, losses must leave it out.
    """

    def __init__(self, occupied: Tensor):
        images, count = occupied.shape
        self._rows: Tensor | None = None
        self.present = occupied.flatten()
        self.image = torch.arange(images, device=occupied.device)[:, None].expand(images, count).reshape(-1)
        if occupied.device.type == "cpu" and not torch.compiler.is_compiling():
            self._rows = self.present.nonzero()[:, 0]
            self.image, self.present = self(self.image[:, None]), self(self.present[:, None])

    def __call__(self, values: Tensor) -> Tensor:
        """The rows of `values` `[N, S, ...]`, as `[R, ...]`."""
        rows = values.flatten(0, 1)
        return rows if self._rows is None else rows[self._rows]
