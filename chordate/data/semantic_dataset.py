"""SemanticDataset: base class of datasets with a label image per image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.tv_tensors import Image

from chordate.arguments import Names
from chordate.data.dataset import Dataset, model_classes
from chordate.data.image_headers import check_image, image_sizes
from chordate.data.image_io import read_image
from chordate.data.label_counts import LabelCounts
from chordate.data.label_encoding import Background, Color, LabelDecoder, LabelEncoding, LabelId
from chordate.data.label_files import LabelPixels, format_color, pack_colors, read_label_image
from chordate.data.label_map import LabelMap
from chordate.data.label_survey import check_colors_and_sizes, check_encoding, survey_labels, wrong_label_size
from chordate.errors import BrokenFile, DataError
from chordate.structures import Counts, DatasetMeta, ImageInfo, Sample, Statistic
from chordate.structures.semantic import SemanticTargets


class SemanticDataset(Dataset):
    """Images with a label image each, which has the class of every pixel.

    A label image has one channel of class ids (gray values or palette indices), or RGB colors. Ignored pixels do not
    contribute to the loss, and are not evaluated. The label files are checked when the dataset is opened; of very large
    datasets, only some (see `label_survey.py`).

    A sample has `image` Image uint8 `[3, H, W]` RGB, `labels` LabelMap `[H, W]`, and `info` ImageInfo.

    Args:
        pairs: the image file and the label file of each sample.
        classes: class names; the index of a name is the label.
        ids: the pixel value of each class, 0 … 65535. The default is 0, 1, …, or 1, 2, … if there is a background
            that is not in `classes`.
        ignored_ids: pixel values that are ignored. A value that is neither a class nor ignored is an error.
        palette: the RGB color of each class, for label images in color and for drawings. Other colors in label images
            are ignored.
        background: treatment of background pixels: "class" makes them a class named "background", "ignored" ignores
            them. Background pixels are those of the class "background" if `classes` has one, else those with the value
            0. With None, there is no background.
        data_root, pipeline, seed, meta, skip_broken: see `Dataset`.

    Raises:
        ConfigError: the settings contradict each other.
        DataError: a checked label image is missing or unreadable, differs in size from its image, or has values or
            colors that do not fit the settings.
    """

    target_type = SemanticTargets
    default_metric = "SemanticMetric"

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        *,
        classes: Names,
        ids: Sequence[LabelId] | None = None,
        ignored_ids: Sequence[LabelId] = (255,),
        palette: Sequence[Color] | None = None,
        background: Background | None = None,
        data_root: str | Path = ".",
        pipeline: Sequence[Any] = (),
        seed: int = 0,
        meta: DatasetMeta | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(data_root=data_root, pipeline=pipeline, seed=seed, meta=meta, skip_broken=skip_broken)
        encoding = LabelEncoding.build(classes, ids, ignored_ids, palette, background)
        source = Path(os.path.commonpath([label.parent for _, label in pairs]))
        check = partial(check_colors_and_sizes, encoding=encoding, source=source)
        survey = survey_labels(pairs, self.read_pixels, check, skip_broken)
        encoding, self.health_report = check_encoding(survey, encoding, source, background)
        encoding = encoding.reordered(model_classes(encoding.classes, meta) or ())
        if meta is None:
            self.meta = DatasetMeta(encoding.classes, palette=encoding.palette)
        self.pairs, self.encoding, self.decode = list(pairs), encoding, LabelDecoder(encoding)

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The pixel value of each class in gray label images, also if the dataset's label images are in color."""
        return self.encoding.ids

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Sample:
        """The sample before its transforms.

        Raises:
            DataError: a file cannot be read, the image and its labels differ in size, or a pixel value is neither a
                class nor ignored.
        """
        path, label_path = self.pairs[index]
        image, labels = read_image(path, None, self.channels, self.white_level), self.read_labels(label_path)
        (height, width), size = image.shape[-2:], (labels.shape[-2], labels.shape[-1])
        if size == (width, height) and width != height:  # the labels match the image without its EXIF rotation
            image = read_image(path, size, self.channels, self.white_level)
        elif size != (height, width):
            raise DataError(wrong_label_size(label_path, size, path, (height, width)))
        return {"image": Image(image), "labels": labels, "info": ImageInfo(index, str(path), *size)}

    def id_in_file(self, image_id: int) -> str:
        return self.pairs[image_id][0].name

    def image_path(self, index: int) -> Path:
        return self.pairs[index][0]

    def check_files(self, index: int) -> None:
        path, label_path = self.pairs[index]
        check_image(path, None, lambda path: read_image(path, None, self.channels, self.white_level))
        check_image(label_path, None, self.read_pixels)
        sizes = image_sizes(path)
        try:
            size = image_sizes(label_path)[1]
        except BrokenFile:  # labels that are not image files
            height, width = self.read_pixels(label_path).shape[:2]
            size = height, width
        if size not in sizes:
            raise DataError(wrong_label_size(label_path, size, path, sizes[0]))

    def sample_statistics(self, index: int) -> dict[str, Statistic]:
        """The number of pixels of each value in the label file, with the class of the value."""
        path = self.pairs[index][1]
        counts = LabelCounts.of_file(path, self.read_pixels(path))
        rows = {f"{value} ({self._meaning(self.encoding.ids, value)})": (n,) for value, n in counts.ids.items()}
        palette = pack_colors(np.array(self.encoding.palette or [(0, 0, 0)], np.uint8)).tolist()
        rows |= {f"{format_color(v)} ({self._meaning(palette, v)})": (n,) for v, n in counts.colors.items()}
        return {"values in the label files": Counts(("pixels",), rows)}

    def _meaning(self, values: Sequence[int], value: int) -> str:
        return self.classes[values.index(value)] if value in values else "ignored"

    def labels_of(self, index: int) -> Tensor:
        """The labels `[H, W]` int16 of an image at its original size; ignored pixels have the label `IGNORED`."""
        return self.read_labels(self.pairs[index][1]).as_subclass(Tensor) - 1

    def read_labels(self, path: Path) -> LabelMap:
        """Read a label file as LabelMap `[H, W]`: label + 1, 0 for ignored pixels."""
        return self.decode(self.read_pixels(path), path)

    def read_pixels(self, path: Path) -> LabelPixels:
        """Read the pixels of a label file: ids `[H, W]`, or colors `[H, W, 3]`. Called from several threads.

        Subclasses override this method for label files that are not images."""
        return read_label_image(path)
