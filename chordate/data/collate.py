"""Collates the samples of a dataset; an error names the image whose sample or labels are invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chordate.data.dataset import Dataset
from chordate.errors import ChordateError, DataError
from chordate.structures import IGNORED, Batch, ImageInfo, Targets
from chordate.structures.layout import layouts_of
from chordate.text import first_names, one_line


def collate_samples(dataset: Dataset, samples: Sequence[Any], size_divisor: int = 1) -> Batch:
    """Collate samples with `dataset.collate`, and check the class indices in the targets: on a GPU, a wrong one would
    end the process with an error that does not name it.

    Raises:
        DataError: the samples cannot be collated, or a label is not a class.
    """
    try:
        batch = dataset.collate(samples, size_divisor=size_divisor)
    except ChordateError:
        raise
    except Exception as error:
        if len(samples) > 1:
            for sample in samples:
                collate_samples(dataset, [sample], size_divisor)
        raise DataError(_not_collated(dataset, samples, error)) from error
    if isinstance(batch, Batch):
        _check_labels(dataset, batch)
    return batch


def _check_labels(dataset: Dataset, batch: Batch) -> None:
    """Check that the class indices in the targets, if there are any, are 0 … classes - 1 or `IGNORED`."""
    classes, targets = len(dataset.classes), batch.targets
    labels = targets.class_labels() if isinstance(targets, Targets) else None
    if not classes or labels is None or not labels.numel():
        return
    low, high = (int(label) for label in labels.aminmax())
    if low >= IGNORED and high < classes:
        return
    wrong = (labels < IGNORED) | (labels >= classes)
    rows = wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong
    infos = [info for info, is_wrong in zip(batch.infos, rows.tolist()) if is_wrong] if len(rows) == len(batch) else []
    raise DataError(
        f"{type(dataset).__name__}: {type(targets).__name__}.labels has the label {int(labels[wrong][0])}, but the "
        f"dataset's {classes} classes have the labels 0 … {classes - 1}{_origin(dataset, infos)}"
    )


def _not_collated(dataset: Dataset, samples: Sequence[Any], error: Exception) -> str:
    """The message about samples that cannot be collated; it lists the fields of the target type."""
    kind = dataset.target_type
    mappings = [sample if isinstance(sample, Mapping) else {} for sample in samples]
    missing = isinstance(error, KeyError) and all(error.args[0] not in sample for sample in mappings)
    reason = f"have no {error.args[0]!r}" if missing else f"cannot be collated ({type(error).__name__}: {error})"
    layouts = ", ".join(f"{field} {layout}" for field, layout in (layouts_of(kind) if kind else {}).items())
    wanted = f"; the fields of {kind.__name__} are {layouts}" if kind and layouts else ""
    infos = [sample.get("info") for sample in mappings]
    return f"{type(dataset).__name__}: its samples {one_line(reason)}{wanted}{_origin(dataset, infos)}"


def _origin(dataset: Dataset, infos: Sequence[Any]) -> str:
    """The images of invalid samples, and the user's own transforms in the dataset's pipeline."""
    paths = [info.path for info in infos if isinstance(info, ImageInfo)]
    own = dataset.pipeline.own_transforms()
    parts = [f"image {first_names(paths)}"] if paths else []
    parts += [f"check the transform {', '.join(own)}"] if own else []
    return f" ({'; '.join(parts)})" if parts else ""
