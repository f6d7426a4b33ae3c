"""Builds the dataset and the data loader of a config's `train_data` or `val_data`."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from annotated_types import Gt, Le
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from chordate.arguments import NonNegativeInt, PositiveInt, validate_settings
from chordate.composition import Section, placed_part, placed_parts
from chordate.data.check_dataset import check_dataset
from chordate.data.collate import collate_samples
from chordate.data.dataset import Dataset
from chordate.data.samplers import EpochBatches, EvaluationBatches, TrainingBatches, repeat_factors
from chordate.data.transforms.pipeline import build_pipeline
from chordate.data.white_level import describe_white_level, find_white_level
from chordate.distributed import all_gather_object, is_main_process, world_size
from chordate.errors import ChordateError, ConfigError, DataError, MissingFile, UnknownClass
from chordate.registry import DATASETS
from chordate.signals import terminations
from chordate.structures import Batch, DatasetMeta
from chordate.text import pluralize, printable

GRACE = 30  # seconds from SIGTERM to SIGKILL under SLURM (its KillWait)
PATIENCE = 2  # seconds in which a worker may finish its sample before it is killed
log = logging.getLogger("chordate")


@dataclass(frozen=True)
class EvaluationData:
    """The section `val_data` of a config.

    Attributes:
        dataset: a dict with `type`, the name of a type, or a Dataset.
        pipeline: transforms of each sample.
        batch_size: images per batch in each process.
        workers: number of loader processes, at most one per core; 0 loads in the main process.
    """

    dataset: str | Mapping[str, Any] | Dataset
    pipeline: Sequence[Any] = ()
    batch_size: PositiveInt = 1
    workers: NonNegativeInt = 2


@dataclass(frozen=True)
class TrainingData(EvaluationData):
    """The section `train_data` of a config.

    Attributes:
        group_by_aspect: put wide and tall images into separate batches.
        class_balanced: threshold of repeat-factor sampling (0.001 in LVIS); None samples uniformly.
    """

    group_by_aspect: bool = True
    class_balanced: Annotated[float, Gt(0), Le(1)] | None = None


class Loader(DataLoader[Any]):
    """A DataLoader that yields Batches for the trainer.

    Raises user errors from worker processes as one line, without torch's traceback. Create it with `build_loader`, or
    directly from a map-style dataset with keys `(epoch, index)`, an `EpochBatches` as `batch_sampler`, and a
    `collate_fn` that returns Batches.
    """

    batch_sampler: EpochBatches

    @property
    def images_per_batch(self) -> int:
        """Number of images in a full batch on this rank."""
        return self.batch_sampler.batch_size

    def start_epoch(self, epoch: int, start_batch: int = 0, worker_seed: int | None = None) -> None:
        """Set the epoch; the next pass starts at batch `start_batch` (for a resumed run), later passes at 0.

        `worker_seed` seeds the generator that draws the workers' base seed; None keeps the generator's state.
        """
        self.batch_sampler.set_epoch(epoch, start_batch)
        if worker_seed is not None:
            self.generator = torch.Generator().manual_seed(worker_seed)

    def first_batch(self) -> Batch:
        """Load a batch of the dataset's first sample in this process, for checks before training."""
        return self.collate_fn([self.dataset[0, 0]])

    def stop_workers(self) -> None:
        """End persistent workers now, within `PATIENCE` seconds; iterating again starts new ones."""
        if self._iterator is not None:
            stop(self._iterator)
            self._iterator = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        if self.num_workers:
            _running.add(batches)
            # atexit calls functions in reverse order of registration. `_stop_all` is registered again to run before
            # torch's cleanup, which waits five seconds per worker.
            atexit.unregister(_stop_all)
            atexit.register(_stop_all)
        try:
            yield from batches
        except ChordateError as error:
            # torch re-raises a worker's error with its traceback as the message; our message is the last line.
            last = error.args[0].strip().splitlines()[-1]
            raise type(error)(last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
        except ConnectionError:  # a killed worker's tensors cannot be fetched; torch's error names the signal
            for _ in range(20):
                signal_handling._error_if_any_worker_fails()
                time.sleep(0.05)
            raise
        finally:  # also if the consumer stops after the last batch without asking for another
            if world_size() == 1:  # all ranks must call report_problems, but after an error some may not get here
                self.report_problems()

    def report_problems(self) -> None:
        """Log the problems of the samples that all ranks have read so far. All ranks must call it; with one rank, it is
        called after each pass."""
        if not isinstance(self.dataset, Dataset):
            return
        gathered = all_gather_object(self.dataset.read_problems())
        problems = {kind: sorted({index for other in gathered for index in other[kind]}) for kind in gathered[0]}
        for line in self.dataset.read_report(problems):
            if is_main_process():
                log.warning(printable(line, None))


_running: weakref.WeakSet[Any] = weakref.WeakSet()  # torch's iterators whose workers may still run


def _stop_all() -> None:
    for batches in tuple(_running):
        stop(batches)


def stop(batches: Any) -> None:
    """End the workers of a DataLoader's iterator. Kills those that are still loading after `PATIENCE` seconds."""
    if not vars(batches).get("_worker_pids_set"):
        return  # loads in this process, or the workers have ended
    # From here on, the end of a worker is no error; torch would raise one from its signal handler.
    signal_handling._remove_worker_pids(id(batches))
    batches._worker_pids_set = False
    killer = threading.Timer(PATIENCE, lambda: [worker.kill() for worker in batches._workers])
    killer.daemon = True
    killer.start()
    with contextlib.suppress(RuntimeError):  # a worker that was killed may leave a broken queue behind
        batches._shutdown_workers()
    killer.cancel()


def _settings(section: Mapping[str, Any], training: bool) -> TrainingData | EvaluationData:
    where = "train_data" if training else "val_data"
    if "dataset" not in section:
        source = section.source([""]) if isinstance(section, Section) else ""
        raise ConfigError(f'{source}{where} has no "dataset"; write {where}.dataset = dict(type=…)')
    return validate_settings(TrainingData if training else EvaluationData, section, where)


def check_data_section(section: Mapping[str, Any], *, training: bool) -> None:
    """Check the settings and transforms of a config's `train_data` or `val_data`, without reading data.

    Raises:
        ConfigError: a setting or transform is unknown or invalid.
    """
    _settings(section, training)
    build_pipeline(placed_parts(section, "pipeline"))


def build_dataset(
    section: Mapping[str, Any],
    *,
    data_root: str | Path,
    training: bool,
    seed: int = 0,
    meta: DatasetMeta | None = None,
    meta_of: str = "the model",
    channels: int | None = None,
) -> Dataset:
    """Build and check the dataset of a config's `train_data` or `val_data`, and log the problems in its files.

    Args:
        section: the config's section `train_data` or `val_data`.
        data_root: the folder that the dataset's paths are relative to.
        training: whether the dataset is for training; then there must be annotations to train on.
        seed: random seed of the augmentation.
        meta: metadata of the model; labels must have the same meaning in the model and the dataset. None uses the
            dataset's own metadata.
        meta_of: owner of `meta`, such as "the model", for messages.
        channels: number of channels of the model's images; None reads files as RGB.

    Raises:
        ConfigError: settings are unknown or invalid, or the class is not a Dataset.
        DataError: data are missing or broken, there is nothing to train on, classes or keypoints differ from `meta`, or
            the samples do not fulfill the contract of `Dataset`.
    """
    settings, where = _settings(section, training), "train_data" if training else "val_data"
    wiring: dict[str, Any] = {"data_root": data_root, "pipeline": placed_parts(section, "pipeline"), "seed": seed}
    if meta is not None:
        wiring["meta"] = meta
    try:
        spec = placed_part(section, settings.dataset, "dataset")
        dataset: Dataset = DATASETS.build(spec, facts={"check_whole": not training}, **wiring)
    except MissingFile as error:
        where = f"data root: {data_root}, set by --data-root or CHORDATE_DATA"
        raise DataError(f"{error} ({where})", located=error.located) from error
    except UnknownClass as error:
        if meta is None:
            raise
        names = ", ".join(meta.classes[:5]) + (" …" if len(meta.classes) > 5 else "")
        raise DataError(f"{where} must have all classes of {meta_of} ({names}): {error}") from error
    if channels is not None and isinstance(dataset, Dataset):
        dataset.channels = channels
    if isinstance(dataset, Dataset):
        dataset.white_level = find_white_level(dataset) if meta is None else meta.white_level
    check_dataset(dataset)
    if meta is None and dataset.white_level not in (None, 65535):
        log.warning(f"{where}: {describe_white_level(dataset.white_level)}")
    if dataset.white_level != dataset.meta.white_level:
        dataset.meta = replace(dataset.meta, white_level=dataset.white_level)
    difference = None if meta is None else dataset.meta.difference(meta)
    if difference:
        raise DataError(f"{where}: {type(dataset).__name__} does not fit {meta_of}: it has {difference}")
    for line in dataset.health_report if is_main_process() else ():
        log.warning(printable(line, None))
    dataset.check_annotated(training)
    return dataset


def build_loader(
    dataset: Dataset,
    section: Mapping[str, Any],
    *,
    training: bool,
    seed: int = 0,
    size_divisor: int = 1,
    rank: int = 0,
    world_size: int = 1,
    drop_single: bool = False,
) -> Loader:
    """Build the data loader of a config's `train_data` or `val_data`.

    Args:
        dataset: from `build_dataset`.
        section: the config's section `train_data` or `val_data`.
        training: if true, shuffle, augment differently in each epoch, and yield the same number of batches on every
            rank; otherwise, yield each image exactly once across all ranks, in a fixed order.
        seed: random seed of the order in training; the augmentation depends on the `seed` of the dataset.
        size_divisor: the model's `size_divisor`; height and width of batches are padded to multiples of it.
        rank, world_size: rank of this process and number of processes.
        drop_single: see `TrainingBatches`; for a model with BatchNorm.

    Returns:
        A loader; `start_epoch(epoch, start_batch)` sets the epoch and the first batch.

    Raises:
        ConfigError: settings are unknown or invalid.
    """
    settings = _settings(section, training)
    ranks = {"rank": rank, "world_size": world_size}
    sizes = dataset.sizes
    sampler: EpochBatches
    if isinstance(settings, TrainingData):
        threshold = settings.class_balanced
        sampler = TrainingBatches(
            len(dataset),
            settings.batch_size,
            seed=seed,
            groups=None if sizes is None or not settings.group_by_aspect else sizes[:, 0] > sizes[:, 1],
            factors=repeat_factors(dataset.class_images(), len(dataset), threshold) if threshold else None,
            drop_single=drop_single,
            **ranks,
        )
        if sampler.dropped:
            log.info(
                f"train_data: each epoch leaves out {pluralize(sampler.dropped, 'image')} that would be alone in the "
                f"last batch; BatchNorm cannot compute statistics of one image"
            )
    else:
        aspects = np.ones(len(dataset)) if sizes is None else sizes[:, 0] / sizes[:, 1].clip(1)
        sampler = EvaluationBatches(aspects, settings.batch_size, **ranks)
    workers = min(settings.workers, _cores())
    if workers < settings.workers:
        where = "train_data" if training else "val_data"
        log.info(f"{where}.workers={settings.workers}: only {workers} are started, one per available CPU core")
    return Loader(
        dataset,
        batch_sampler=sampler,
        collate_fn=partial(collate_samples, dataset, size_divisor=size_divisor),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator().manual_seed(seed),  # with None, each epoch draws from the global generator
    )


def _cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def start_worker(worker: int) -> None:
    """Limit a worker to one thread, and leave Ctrl-C, SIGTERM and SIGHUP, which reach all processes, to the trainer.

    On these signals, the trainer finishes its iteration (which may need another batch), saves a checkpoint, and stops
    its workers. A worker that is still running `GRACE` seconds after SIGTERM or SIGHUP ends itself.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in terminations():
        signal.signal(number, lambda *_: signal.alarm(GRACE))
