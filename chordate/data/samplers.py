"""Batch samplers: shuffle, group by aspect ratio, balance classes, and divide batches among ranks.

A sampler yields keys instead of indices: `(epoch, index)` when an image occurs for the first time in an epoch, and
`(epoch, index, repeat)` with `repeat` = 1, 2, … when it occurs again. A sample's augmentation depends only on its key
and the seed, so a resumed run sees the same images, with any number of workers.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Key = tuple[int, ...]


class EpochBatches(Protocol):
    """Batch sampler of a Loader: yields one epoch at a time; in training, the same number of batches on every rank.

    Attributes:
        batch_size: number of keys in a full batch on this rank.
    """

    batch_size: int

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Set the epoch; the next pass starts at batch `start_batch` (for a resumed run), later passes at 0."""

    def __len__(self) -> int:
        """Number of batches in a full epoch, regardless of `start_batch`."""

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of each batch."""


def repeat_factors(class_images: Sequence[NDArray[np.int64]], images: int, threshold: float) -> NDArray[np.float64]:
    """The mean number of times that each image occurs in an epoch, larger for images with rare classes.

    Repeat-factor sampling of LVIS (Gupta et al. 2019, section "Methodology"): a class that occurs in a fraction `f` of
    the images has the factor `max(1, sqrt(threshold / f))`; an image has the largest factor of its classes.

    Args:
        class_images: for each class, the indices of the images that contain the class.
        images: number of images.
        threshold: a class that occurs in a smaller fraction of the images than this is oversampled (LVIS: 0.001).

    Returns:
        `[images]` repeat factors, each ≥ 1.
    """
    factors = np.ones(images)
    for indices in class_images:
        if len(indices):
            factor = max(1.0, (threshold * images / len(indices)) ** 0.5)
            factors[indices] = np.maximum(factors[indices], factor)
    return factors


class TrainingBatches(Sampler[list[Key]]):
    """Shuffled batches of keys, equal in number and sizes on every rank.

    All ranks draw the same order from `(seed, epoch)` and divide it into steps of `batch_size × world_size` images, of
    which each rank loads its part. So the steps do not depend on the number of ranks as long as
    `batch_size × world_size` is the same. Every image is seen once per epoch (or according to `factors`). If the number
    of images is not a multiple of `world_size`, fewer than `world_size` images are repeated. The last step may be
    smaller.

    Args:
        images: number of images.
        batch_size: images per step on each rank.
        seed: random seed of the order.
        rank, world_size: rank of this process and number of processes.
        groups: `[images]`, the group of each image (integer or boolean). A step has images of one group, to reduce
            padding; at the end of an epoch, the remaining images of all groups are mixed.
        factors: `[images]`, the mean number of times that each image is seen in an epoch (from `repeat_factors`).
        drop_single: whether to drop the last step if it has one image per rank while the other steps have more, since
            BatchNorm cannot compute statistics of one image. Each epoch drops different images.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: NDArray[np.integer | np.bool_] | None = None,
        factors: NDArray[np.floating] | None = None,
        drop_single: bool = False,
    ):
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.groups = np.zeros(images, np.int64) if groups is None else np.asarray(groups, np.int64)
        self.factors = None if factors is None else np.asarray(factors, np.float64)
        drawn = images if self.factors is None else round(float(self.factors.sum()))
        self.drawn = -(-drawn // world_size) * world_size  # rounded up to a multiple of `world_size`
        step = batch_size * world_size
        #: Number of images that each epoch leaves out.
        self.dropped = world_size if drop_single and self.drawn > step and self.drawn % step == world_size < step else 0
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Set the epoch; the next pass starts at batch `start_batch` (for a resumed run), later passes at 0."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Number of batches in a full epoch, regardless of `start_batch`."""
        return -(-(self.drawn - self.dropped) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[Key]]:
        start, self.start_batch = self.start_batch, 0
        for step in self._steps()[start:]:
            share = len(step) // self.world_size
            yield step[self.rank * share : (self.rank + 1) * share]

    def _steps(self) -> list[list[Key]]:
        """The keys of each step of the epoch, for all ranks together."""
        order = self._order(np.random.default_rng([self.seed, self.epoch]))
        turns: dict[int, int] = {}
        keys: list[list[Key]] = [[] for _ in range(int(self.groups.max(initial=0)) + 1)]
        steps, size = [], self.batch_size * self.world_size
        for index in order.tolist():
            turn = turns[index] = turns.get(index, -1) + 1
            waiting = keys[self.groups[index]]
            waiting.append((self.epoch, index, turn) if turn else (self.epoch, index))
            if len(waiting) == size:
                steps.append(waiting.copy())
                waiting.clear()
        rest = [key for waiting in keys for key in waiting]
        return [*steps, *(rest[start : start + size] for start in range(0, len(rest), size))][: len(self)]

    def _order(self, random: np.random.Generator) -> NDArray[np.int64]:
        """The `self.drawn` image indices of the epoch, in the order in which they are drawn."""
        order = random.permutation(self.images)
        if self.factors is not None:
            # Systematic sampling: each image occurs floor(f) or ceil(f) times, f on average, with a constant total.
            ends = np.cumsum(self.factors[order])
            ends = np.floor(ends * (round(ends[-1]) / ends[-1]) + random.random() + 1e-9)
            order = random.permutation(np.repeat(order, np.diff(ends, prepend=0).astype(np.int64)))
        return np.resize(order, self.drawn)


class EvaluationBatches(Sampler[list[Key]]):
    """Batches of images sorted by aspect ratio to reduce padding; each image is in one batch of one rank.

    The number of batches may differ by one between ranks.

    Args:
        aspects: `[images]` height / width of each image.
        batch_size: images per batch; with 1, the images are not sorted.
        rank, world_size: rank of this process and number of processes.
    """

    def __init__(self, aspects: NDArray[np.floating], batch_size: int, *, rank: int = 0, world_size: int = 1):
        self.batch_size = batch_size
        order = np.argsort(aspects, kind="stable") if batch_size > 1 else np.arange(len(aspects))
        keys: list[Key] = [(0, index) for index in order.tolist()]
        batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
        self.batches = batches[rank::world_size]

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Does nothing, since an evaluation is the same in every epoch."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)
