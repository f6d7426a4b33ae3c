"""ConcatDataset: several datasets as one training set, such as Pascal VOC 2007 and 2012."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from chordate.arguments import NonEmpty
from chordate.data.dataset import Dataset
from chordate.errors import DataError
from chordate.registry import DATASETS
from chordate.structures import Batch, DatasetMeta, Sample, Statistic
from chordate.text import printable


@DATASETS.register_module()
class ConcatDataset(Dataset):
    """The samples of several datasets, one dataset after the other. For training; metrics evaluate a single dataset.

    The datasets may have different types, but must have the same classes (in any order) and samples with the same
    fields. Transforms that mix images draw from all of them.

    The id of an image is `number of datasets × its id in its dataset + index of the dataset`.

    Args:
        datasets: configs of the datasets, dicts with `type`.
        data_root, pipeline, seed, meta, skip_broken: see `Dataset`. `skip_broken` is for all datasets; a dataset's
            config may set it, too.

    Attributes:
        parts: the datasets.

    Raises:
        DataError: the datasets have different classes, keypoints or target types, one is a ConcatDataset, or as for
            one of them.
    """

    def __init__(
        self,
        datasets: Annotated[Sequence[str | Mapping[str, Any]], NonEmpty],
        *,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        seed: int = 0,
        meta: DatasetMeta | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(data_root=data_root, seed=seed, skip_broken=skip_broken)
        self.parts: list[Dataset] = []
        for number, spec in enumerate(datasets):
            config = DATASETS.expand(spec)
            if skip_broken:
                config.setdefault("skip_broken", True)
            wiring: dict[str, Any] = {"data_root": data_root, "pipeline": pipeline, "seed": seed + number}
            part: Dataset = DATASETS.build(config, **wiring if meta is None else {**wiring, "meta": meta})
            first = self.parts[0] if self.parts else part
            if meta is None and sorted(part.classes) == sorted(first.classes) and part.classes != first.classes:
                part = DATASETS.build(config, **wiring, meta=first.meta)  # the same classes in another order
            self._check_fits(part, first)
            if isinstance(part, ConcatDataset):
                raise DataError(
                    f"ConcatDataset: datasets[{number}] is a ConcatDataset, too; list its datasets in the outer one"
                )
            part.partners = self
            self.parts.append(part)
        self.ends = list(accumulate(map(len, self.parts)))
        self.meta, self.target_type = self.parts[0].meta, self.parts[0].target_type
        self.default_metric, self.pipeline = self.parts[0].default_metric, self.parts[0].pipeline
        sizes = [part.sizes for part in self.parts if part.sizes is not None]
        self.sizes = np.concatenate(sizes) if len(sizes) == len(self.parts) else None
        self.health_report = [line for part in self.parts for line in part.health_report]
        self.left_out = [line for part in self.parts for line in part.left_out]

    def _check_fits(self, part: Dataset, first: Dataset) -> None:
        """Check that labels and targets of a dataset have the same meaning as those of the first one."""
        where = f"ConcatDataset: datasets[{len(self.parts)}] ({type(part).__name__})"
        if only := [*(set(part.classes) - set(first.classes)), *(set(first.classes) - set(part.classes))]:
            owner, other = (where, "datasets[0]") if only[0] in part.classes else ("datasets[0]", where)
            raise DataError(
                f"{owner} has the class {printable(min(only))}, which {other} does not have; all datasets need the "
                f"same classes: set `classes` in those with more, or add the class to the others"
            )
        if difference := part.meta.difference(first.meta):
            raise DataError(f"{where} does not fit datasets[0]: it has {difference}")
        if part.target_type is not first.target_type:
            kinds = [getattr(one.target_type, "__name__", "no targets") for one in (part, first)]
            raise DataError(f"{where} does not fit datasets[0]: it has {kinds[0]} instead of {kinds[1]}")

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.parts[0].channels

    @channels.setter
    def channels(self, channels: int) -> None:
        for part in self.parts:
            part.channels = channels

    @property
    def white_level(self) -> int | None:  # type: ignore[override]
        return self.parts[0].white_level

    @white_level.setter
    def white_level(self, white_level: int | None) -> None:
        for part in self.parts:
            part.white_level = white_level

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        epoch, index, *repeat = key
        number, inner = self._locate(index)
        return self._with_id(self.parts[number][(epoch, inner, *repeat)], number)

    def read(self, index: int) -> Sample:
        number, inner = self._locate(index)
        return self._with_id(self.parts[number].read(inner), number)

    def read_next(self, index: int) -> Sample:
        number, inner = self._locate(index)
        return self._with_id(self.parts[number].read_next(inner), number)

    def id_in_file(self, image_id: int) -> int | str:
        inner, number = divmod(image_id, len(self.parts))
        return self.parts[number].id_in_file(inner)

    def image_path(self, index: int) -> Path | None:
        number, inner = self._locate(index)
        return self.parts[number].image_path(inner)

    def check_files(self, index: int) -> None:
        number, inner = self._locate(index)
        self.parts[number].check_files(inner)

    def read_problems(self) -> dict[str, list[int]]:
        return {
            f"{number}.{problem}": indices
            for number, part in enumerate(self.parts)
            for problem, indices in part.read_problems().items()
        }

    def read_report(self, problems: Mapping[str, Sequence[int]] | None = None) -> list[str]:
        problems = self.read_problems() if problems is None else problems
        lines = []
        for number, part in enumerate(self.parts):
            own = {key.partition(".")[2]: rows for key, rows in problems.items() if key.startswith(f"{number}.")}
            lines += part.read_report(own)
        return lines

    def finish(self, sample: Sample) -> Sample:
        return self.parts[sample["info"].image_id % len(self.parts)].finish(sample)

    def collate(self, samples: Sequence[Sample], size_divisor: int = 1) -> Batch:
        return self.parts[0].collate(samples, size_divisor=size_divisor)

    def sample_statistics(self, index: int) -> dict[str, Statistic]:
        number, inner = self._locate(index)
        return self.parts[number].sample_statistics(inner)

    def class_images(self) -> list[NDArray[np.int64]]:
        starts = [0, *self.ends]
        by_part = [[rows + start for rows in part.class_images()] for part, start in zip(self.parts, starts)]
        return [np.concatenate(rows) for rows in zip(*by_part, strict=True)]

    def check_annotated(self, training: bool) -> None:
        if not training:
            raise DataError(
                "ConcatDataset is for training, and metrics evaluate a single dataset; set the dataset of val_data to "
                "one of its datasets"
            )
        errors = []
        for part in self.parts:
            try:
                part.check_annotated(training)
            except DataError as error:  # images without objects, which may be added to those of another dataset
                errors.append(error)
        if len(errors) == len(self.parts):
            raise errors[0]
        fields = set(self.parts[0].read_next(0))
        for number, part in enumerate(self.parts):
            if differing := sorted(fields ^ set(part.read_next(0))):
                owner, other = (0, number) if differing[0] in fields else (number, 0)
                raise DataError(
                    f"ConcatDataset: the samples of datasets[{owner}] have {', '.join(differing)}, and those of "
                    f"datasets[{other}] do not; give all datasets the same settings, such as masks=True"
                )

    def _locate(self, index: int) -> tuple[int, int]:
        """The number of the dataset that has a sample, and the sample's index in it."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        return number, index - [0, *self.ends][number]

    def _with_id(self, sample: Sample, number: int) -> Sample:
        info = sample["info"]
        return {**sample, "info": replace(info, image_id=info.image_id * len(self.parts) + number)}
