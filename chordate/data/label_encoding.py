"""LabelEncoding: the class of each pixel value or color in label images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray

from chordate.data.label_counts import LabelCounts
from chordate.data.label_files import LabelPixels, pack_colors
from chordate.data.label_map import LabelMap, label_map
from chordate.errors import ConfigError, DataError

MAX_LABEL_ID = 65535  # the largest pixel value of a 16-bit label image
LabelId = Annotated[int, Ge(0), Le(MAX_LABEL_ID)]
Byte = Annotated[int, Ge(0), Le(255)]
Color = tuple[Byte, Byte, Byte]
Background = Literal["class", "ignored"]
BACKGROUND = "background"  # name of the class of pixels that belong to no other class
BLACK = (0, 0, 0)
UNKNOWN = -2  # label of pixel values that are neither a class nor ignored


@dataclass(frozen=True)
class LabelEncoding:
    """The class of each pixel value or color in the label images of a dataset.

    Attributes:
        classes: class names; the index of a name is the label.
        ids: the pixel value of each class.
        ignored_ids: pixel values that are ignored.
        palette: the RGB color of each class, for label images in color; None without colors.
        ignored_colors: the color of an ignored background. Other colors outside the palette are ignored, too, but are
            reported in the log.
        default_ids: default of the setting `ids` if the config does not set it, else None. It has one entry per class
            in the config, whereas the attribute `ids` may have one more or one fewer because of the background.
    """

    classes: tuple[str, ...]
    ids: tuple[int, ...]
    ignored_ids: tuple[int, ...] = (255,)
    palette: tuple[Color, ...] | None = None
    ignored_colors: tuple[Color, ...] = ()
    default_ids: tuple[int, ...] | None = None

    @classmethod
    def build(
        cls,
        classes: Sequence[str],
        ids: Sequence[int] | None,
        ignored_ids: Sequence[int],
        palette: Sequence[Color] | None,
        background: Background | None,
    ) -> Self:
        """Make the encoding from the arguments of `SemanticDataset`, where they are described.

        Raises:
            ConfigError: `ids` or `palette` does not have one entry per class, two classes have the same id, a class has
                the id of the background, or the id of a class is in `ignored_ids` (255 is allowed, and is then not
                ignored).
        """
        for setting, values in (("ids", ids), ("palette", palette)):
            if values is not None and len(values) != len(classes):
                raise ConfigError(f"{setting} has {len(values)} entries for {len(classes)} classes; give one per class")
        if ids is not None and len(set(ids)) < len(ids):
            raise ConfigError(f"ids has the value {max(ids, key=list(ids).count)} twice; ids must be distinct")
        unnamed = background is not None and BACKGROUND not in classes
        names = [BACKGROUND, *classes] if unnamed else list(classes)
        values = list(range(len(names))) if ids is None else [0, *ids] if unnamed else list(ids)
        if unnamed and 0 in values[1:]:
            raise ConfigError(
                f'ids has 0, which is the background\'s value with background="{background}"; leave out background, or '
                f'add "background" to classes and its value to ids'
            )
        default_ids = None if ids is not None else tuple(values[1:] if unnamed else values)
        colors = None if palette is None else [BLACK, *palette] if unnamed else list(palette)
        ignored_colors: tuple[Color, ...] = ()
        if background == "ignored":
            number = names.index(BACKGROUND)
            del names[number]
            ignored_ids = [*ignored_ids, values.pop(number)]
            ignored_colors = () if colors is None else (colors.pop(number),)
        for value in ignored_ids:
            if value in values and value != 255:
                raise ConfigError(
                    f"ignored_ids has {value}, which is the value of the class {names[values.index(value)]}; remove "
                    f"it, or set ids to the values of the classes"
                )
        ignored = tuple(value for value in ignored_ids if value not in values)
        packed = None if colors is None else tuple(colors)
        return cls(tuple(names), tuple(values), ignored, packed, ignored_colors, default_ids)

    def reordered(self, classes: Sequence[str]) -> Self:
        """The same encoding with its classes in the order of `classes` (the order in the model)."""
        order = [self.classes.index(name) for name in classes]
        palette = None if self.palette is None else tuple(self.palette[number] for number in order)
        return replace(self, classes=tuple(classes), ids=tuple(self.ids[number] for number in order), palette=palette)

    def lookup(self) -> NDArray[np.int16]:
        """Table of the label of each pixel value: -1 for ignored values, `UNKNOWN` for values that are neither a class
        nor ignored. The last entry is `UNKNOWN`, for all larger values."""
        table = np.full(max(*self.ids, *self.ignored_ids, 0) + 2, UNKNOWN, np.int16)
        table[list(self.ignored_ids)] = -1
        table[list(self.ids)] = np.arange(len(self.ids))
        return table


class LabelDecoder:
    """Converts the pixels of label images to labels."""

    def __init__(self, encoding: LabelEncoding):
        self.lookup = encoding.lookup()
        self.packed: NDArray[np.int32] | None = None
        if encoding.palette is not None:
            self.packed = pack_colors(np.array(encoding.palette, np.uint8))
            self.order = np.argsort(self.packed)

    def __call__(self, pixels: LabelPixels, path: Path) -> LabelMap:
        """Convert ids `[H, W]` or colors `[H, W, 3]` to a LabelMap `[H, W]`; `path` is used in error messages.

        Raises:
            DataError: an id is neither a class nor ignored, or the image has colors but there is no palette.
        """
        labels = self._of_colors(pixels, path) if pixels.ndim == 3 else self._of_ids(pixels, path)
        return label_map(torch.from_numpy(labels), torch.from_numpy(labels < 0))

    def _of_ids(self, ids: LabelPixels, path: Path) -> NDArray[np.int16]:
        last = len(self.lookup) - 1
        labels = self.lookup[ids if ids.dtype == np.uint8 and last >= 255 else np.clip(ids.astype(np.int64), -1, last)]
        if (labels == UNKNOWN).any():
            counts = LabelCounts.of_file(path, ids)
            unknown = np.unique(ids[labels == UNKNOWN]).tolist()
            value = max(unknown, key=counts.ids.__getitem__)
            raise DataError(
                f"{path}: pixels have the value {value}, which is not a class; unknown values: "
                f"{counts.describe(unknown, name_files=False)}; {remedy_of(value)}"
            )
        return labels

    def _of_colors(self, colors: LabelPixels, path: Path) -> NDArray[np.int16]:
        codes = pack_colors(colors.astype(np.uint8, copy=False))
        if self.packed is None:
            counts = LabelCounts.of_file(path, colors)
            values = counts.describe(list(counts.colors), "colors", name_files=False)
            raise DataError(f"{path}: the label image is in color: {values}; set palette to the color of each class")
        position = np.minimum(np.searchsorted(self.packed[self.order], codes), len(self.packed) - 1)
        labels = self.order[position].astype(np.int16)
        labels[self.packed[labels] != codes] = -1
        return labels


def remedy_of(value: int) -> str:
    """The remedy, for messages, for a pixel value that is neither a class nor ignored."""
    if 0 <= value <= MAX_LABEL_ID:
        return "add it to ids or to ignored_ids"
    return f"label images have values 0 … {MAX_LABEL_ID}; save it as another value (255 is ignored by default)"
