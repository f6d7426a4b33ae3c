"""From a config's `train_data` or `val_data` to a loader of batches."""

import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from chordate import checks
from chordate.data.batching import collate
from chordate.data.coco import CocoDataset
from chordate.data.samplers import EvaluationBatches, TrainingBatches, repeat_factors
from chordate.errors import ChordateError, ConfigError, DataError, UnknownClass, unknown
from chordate.registry import DATASETS
from chordate.structures import Batch, Skeleton

EVALUATION_SETTINGS = ("dataset", "pipeline", "batch_size", "workers")
TRAINING_SETTINGS = (*EVALUATION_SETTINGS, "group_by_aspect", "class_balanced")
GRACE = 30  # seconds from SIGTERM to SIGKILL under SLURM (its KillWait)


class Loader(DataLoader[Any]):
    """A DataLoader of Batches whose user errors stay one line when they come from a worker process."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except ChordateError as error:
            # torch re-raises a worker's error with its traceback as the message; ours is the last line of it.
            last = str(error).strip().splitlines()[-1]
            raise type(error)(last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None


def build_loader(
    config: Mapping[str, Any],
    *,
    data_root: str | Path,
    training: bool,
    seed: int,
    classes: Sequence[str] | None = None,
    skeleton: Skeleton | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """The loader that a config describes.

    Args:
        config: `dataset` (a dict with `type`), `pipeline` (list of transforms), `batch_size` (images a
            process, default 1), `workers` (processes that load, default 2; 0 loads in this one). For
            training also `group_by_aspect` (default True: wide and tall images in separate batches) and
            `class_balanced` (None, or the threshold of repeat-factor sampling, 0.001 in LVIS).
        data_root: the folder that the data set's paths are relative to.
        training: shuffled, augmented by epoch, equally long on all ranks; else each image once over all
            ranks, in a fixed order.
        seed: with the epoch and the image's index, all that order and augmentation depend on.
        classes: the model's classes, so that labels mean the same here; None takes the data set's.
        skeleton: the model's keypoints, which the data set's must be if it reads some.
        rank, world_size: this process among those that share the work.

    Returns:
        A loader; `loader.batch_sampler.set_epoch(epoch, start_batch)` chooses where it starts,
        `loader.dataset` has `classes` and `category_ids`.

    Raises:
        ConfigError: unknown or unfitting settings.
        DataError: missing or broken data, nothing to train on, or classes or keypoints that are not the model's.
    """
    where = "train_data" if training else "val_data"
    _check_settings(where, config, TRAINING_SETTINGS if training else EVALUATION_SETTINGS)
    batch_size, workers = config.get("batch_size", 1), config.get("workers", 2)
    described = _with_classes(f"{where}.dataset", config["dataset"], classes)
    try:
        dataset = DATASETS.build(described, data_root=data_root, pipeline=config.get("pipeline", []), seed=seed)
    except UnknownClass as error:
        if classes is None:
            raise
        few = ", ".join(classes[:5]) + (" …" if len(classes) > 5 else "")
        raise DataError(f"the model's classes are {few}, and the data must have them all: {error}") from error
    _check_annotated(dataset, training)
    _check_keypoints(dataset, skeleton)
    share = {"rank": rank, "world_size": world_size}
    sampler: TrainingBatches | EvaluationBatches
    shapes = getattr(dataset, "sizes", None)  # images to classify are all cut to one size
    if training:
        threshold = config.get("class_balanced")
        sampler = TrainingBatches(
            len(dataset),
            batch_size,
            seed=seed,
            groups=None if shapes is None or not config.get("group_by_aspect", True) else shapes[:, 0] > shapes[:, 1],
            factors=repeat_factors(dataset.class_images(), len(dataset), threshold) if threshold else None,
            **share,
        )
    else:
        aspects = np.ones(len(dataset)) if shapes is None else shapes[:, 0] / shapes[:, 1].clip(1)
        sampler = EvaluationBatches(aspects, batch_size, **share)
    return Loader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator().manual_seed(seed),  # else each epoch would draw from the global generator
    )


def _check_settings(where: str, config: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in config:
        if name not in known:
            kind = "training" if where == "train_data" else "evaluation"
            raise ConfigError(unknown(f"{kind} data setting", name, known))
    if "dataset" not in config:
        raise ConfigError(f'{where} has no "dataset"; give it dict(type="CocoDataset", …)')
    checks.listed(f"{where}.pipeline", config.get("pipeline", []))
    checks.number(f"{where}.batch_size", config.get("batch_size", 1), least=1, whole=True)
    checks.number(f"{where}.workers", config.get("workers", 2), least=0, whole=True)
    checks.switch(f"{where}.group_by_aspect", config.get("group_by_aspect", True))
    if config.get("class_balanced") is not None:
        checks.number(f"{where}.class_balanced, where not None,", config["class_balanced"], above=0)


def _check_annotated(dataset: Any, training: bool) -> None:
    """Training needs an instance to learn; an evaluation without ground truth is only pointed out."""
    if not isinstance(dataset, CocoDataset) or dataset.count(crowd=False):
        return
    what = f"{dataset.annotations}: {len(dataset)} images, but not one instance of {', '.join(dataset.classes)}"
    if training:
        raise DataError(f"{what} (crowds do not count), so nothing can be learnt; give a file with annotations")
    if not dataset.count(crowd=True):
        print_log(f"{what}; there is nothing to measure against", logger="current", level=logging.WARNING)


def _check_keypoints(dataset: Any, skeleton: Skeleton | None) -> None:
    own = getattr(dataset, "skeleton", None)
    if own is not None and skeleton is not None and own.names != skeleton.names:
        raise DataError(
            f"{dataset.annotations}: its keypoints are {', '.join(own.names)}; the model's are "
            f"{', '.join(skeleton.names)}"
        )


def _with_classes(where: str, dataset: Any, classes: Sequence[str] | None) -> Any:
    """The data set's config with the model's classes, which its own must not contradict."""
    built = not isinstance(dataset, str | Mapping)
    if isinstance(dataset, Mapping) and dataset.get("classes") is not None:
        checks.listed(f"{where}.classes", dataset["classes"])
    if classes is None:
        return dataset
    dataset = dataset if built else DATASETS.expand(dataset)
    own = dataset.classes if built else dataset.get("classes")
    if own is not None and (tuple(own) != tuple(classes) if built else set(own) != set(classes)):
        raise DataError(
            f"the model's classes are {', '.join(classes)}, but this data set is set to {', '.join(own)}; "
            f"train a model for those, or remove `classes` from the data set"
        )
    return dataset if built else {**dataset, "classes": list(classes)}


def start_worker(worker: int) -> None:
    """One thread; and Ctrl-C or a scheduler's SIGTERM, which reach all processes, are the trainer's to answer.

    It finishes its iteration, for which it may still want a batch, saves, and ends its workers. One that is left over
    for all that goes after `GRACE` seconds.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
