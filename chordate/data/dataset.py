"""Base class of datasets: a sample depends only on seed, epoch and index; models and metrics read the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chordate.data.seeding import seeded
from chordate.data.transforms.pipeline import Pipeline, build_pipeline
from chordate.errors import BrokenFile, DataError, UnknownClass
from chordate.structures import Batch, DatasetMeta, Sample, Statistic, Targets, collate_images
from chordate.text import pluralize

MAX_SKIPPED = 100  # this many broken samples in a row are an error, since single files are not the cause


class Dataset(torch.utils.data.Dataset[Sample]):
    """Base class of datasets. A subclass sets `meta` and `target_type`, and implements `__len__` and `read`.

    `meta` is a class attribute if it does not depend on the files; else `__init__` sets it.

    `dataset[(epoch, index)]` returns a sample, a dict with `image`, `info` (ImageInfo), and the fields that
    `target_type.collate` reads. The sample depends only on the key `(epoch, index)` and on `seed`.

    Args:
        data_root: the folder that the dataset's paths are relative to.
        pipeline: list of transforms, see `build_pipeline`.
        seed: random seed of the augmentation.
        meta: metadata of the model that is evaluated on this dataset. Labels must have the same meaning in the model
            and the dataset; `build_dataset` checks this.
        skip_broken: whether to skip samples whose files are missing or cannot be decoded, instead of raising an error.
            A sample that proves broken when it is read is replaced by the next one; the loader logs the number of
            broken samples.

    Attributes:
        meta: metadata for the model, the checkpoint and the predictions.
        target_type: the class of a batch's targets; None for a dataset without ground truth.
        default_metric: config of the metric that is used if the run's config has no `metric`.
        sizes: `[len, 2]`, height and width of each image, so that images of similar aspect ratio can share a batch;
            None disables this grouping.
        health_report: problems found when the dataset was opened, one line each.
        left_out: images that are missing or broken and were left out when the dataset was opened, one line each.
        channels: number of channels of the images; `build_dataset` sets it to that of the model.
        white_level: the largest value of pixels with more than 8 bits; `build_dataset` sets it to that of the model, or
            to the result of `find_white_level`. None determines it for each image separately.
        pipeline: the transforms.
        partners: the dataset from which transforms that mix images draw the other images; None for this dataset.
        not_inherited: names of settings that are not inherited when a config changes the dataset's `type` to this
            class, since the class has its own defaults for them. Values set by a packaged config are dropped without
            a log message.
    """

    meta: DatasetMeta = DatasetMeta()
    target_type: type[Targets] | None = None
    default_metric: str | Mapping[str, Any] | None = None
    sizes: NDArray[np.int64] | None = None
    health_report: Sequence[str] = ()
    left_out: Sequence[str] = ()
    channels: int = 3
    white_level: int | None = None
    skip_broken: bool = False
    partners: Dataset | None = None
    not_inherited: Sequence[str] = ()
    pipeline: Pipeline = Pipeline(())
    _broken: torch.Tensor | None = None  # [len] bool, in memory that is shared with the workers

    def __init__(
        self,
        *,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        seed: int = 0,
        meta: DatasetMeta | None = None,
        skip_broken: bool = False,
    ):
        self.data_root = Path(data_root)
        self.skip_broken = skip_broken
        self.pipeline, self.seed = build_pipeline(pipeline), seed
        # Keep the `meta` that a subclass sets as class attribute; `build_dataset` compares it with the model's.
        if meta is not None and self.meta == DatasetMeta():
            self.meta = meta

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of `meta`; labels are indices into them."""
        return self.meta.classes

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> Sample:
        """Read a sample, without applying the transforms."""
        raise NotImplementedError

    def id_in_file(self, image_id: int) -> int | str:
        """The id of an image in the dataset's files, for messages and results: its id in the annotations, or its file
        name if they have no ids. By default, the `image_id` of its ImageInfo."""
        return image_id

    def image_path(self, index: int) -> Path | None:
        """Path of a sample's image file; None (the default) if the sample has no file of its own, e.g. in a zip."""
        return None

    def check_files(self, index: int) -> None:
        """Check the files of a sample, without decoding complete JPEG and PNG files. Called from several threads, for
        each sample of the validation set before training starts. By default, checks nothing.

        Raises:
            BrokenFile: a file is missing or broken.
            DataError: a file does not fit the annotations.
        """

    def finish(self, sample: Sample) -> Sample:
        """Complete a transformed sample, e.g. convert polygons to masks. By default, returns it unchanged."""
        return sample

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        """The transformed sample for a key `(epoch, index)` or `(epoch, index, repeat)`, see `samplers.py`."""
        with seeded(self.seed, *key):
            sample = self.read_next(key[1]) if self.skip_broken else self.read(key[1])
            transformed = self.pipeline(sample, self._partner)
            removed = sample.keys() - transformed.keys()
            try:
                return self.finish(transformed)
            except KeyError as error:
                if not removed.intersection(error.args):
                    raise
                own = ", ".join(self.pipeline.own_transforms()) or "the pipeline"
                raise DataError(f"{sample['info'].path}: after {own}, the sample has no {error}") from error

    def read_next(self, index: int) -> Sample:
        """Read a sample, without applying the transforms. With `skip_broken`, a broken sample is replaced by the next
        one that is not broken.

        Raises:
            BrokenFile: the sample is broken and `skip_broken` is false, or the `MAX_SKIPPED` samples from `index` on
                are all broken.
        """
        if not self.skip_broken:
            return self.read(index)
        if self._broken is None:
            self._broken = torch.zeros(len(self), dtype=torch.bool).share_memory_()
        for number in ((index + step) % len(self) for step in range(min(MAX_SKIPPED, len(self)))):
            try:
                return self.read(number)
            except BrokenFile as error:
                self._broken[number] = True
                reason = error
        raise BrokenFile(f"{min(MAX_SKIPPED, len(self))} samples in a row are broken, the last: {reason}")

    def read_problems(self) -> dict[str, list[int]]:
        """For each problem, the indices of the affected samples that this process and its workers have read."""
        return {"broken": [] if self._broken is None else self._broken.nonzero()[:, 0].tolist()}

    def read_report(self, problems: Mapping[str, Sequence[int]] | None = None) -> list[str]:
        """One line per problem: the number of affected samples, and the first one. The loader logs the lines after each
        epoch.

        Args:
            problems: the `read_problems` of all ranks; None for those of this process.
        """
        broken = (self.read_problems() if problems is None else problems)["broken"]
        if not broken:
            return []
        try:
            reason = f"{self.read(broken[0])['info'].path} could not be read"
        except DataError as error:
            reason = str(error)
        return [f"{len(broken):,} of {pluralize(len(self), 'sample')} are broken and were skipped, the first: {reason}"]

    def _partner(self) -> Sample:
        """Read a random sample without applying the transforms, for transforms that mix several images."""
        partners = self if self.partners is None else self.partners
        return partners.read_next(int(torch.randint(len(partners), ())))

    def original(self, index: int) -> Batch:
        """A batch of one sample without transforms, so its targets are in pixels of the original image."""
        return self.collate([self.finish(self.read_next(index))])

    def collate(self, samples: Sequence[Sample], size_divisor: int = 1) -> Batch:
        """Collate samples into a batch; images are padded to multiples of `size_divisor` pixels."""
        return collate_images(samples, self.target_type, size_divisor)

    def sample_statistics(self, index: int) -> dict[str, Statistic]:
        """Statistics of a sample for `chordate check`, keyed by title, in addition to those of its targets."""
        return {}

    def class_images(self) -> list[NDArray[np.int64]]:
        """For each class, the indices of the images that contain the class, for class-balanced sampling.

        Raises:
            DataError: the dataset does not implement this method.
        """
        raise DataError(f"{type(self).__name__} has no class_images, so train_data.class_balanced must be None")

    def check_annotated(self, training: bool) -> None:
        """Check that the annotations suffice for training, or for evaluation if `training` is false. Called once,
        before the dataset is used. By default, checks nothing.

        Raises:
            DataError: the annotations do not suffice, e.g. there is nothing to train on.
        """


def model_classes(classes: Sequence[str] | None, meta: DatasetMeta | None) -> Sequence[str] | None:
    """The classes that a dataset should use: `meta.classes` if the model's `meta` is given, else `classes`.

    Raises:
        UnknownClass: both are set and name different classes.
    """
    if meta is None:
        return classes
    if classes is not None and set(classes) != set(meta.classes):
        raise UnknownClass(f"this dataset sets classes to {', '.join(classes)}; remove `classes` from its config")
    return meta.classes
