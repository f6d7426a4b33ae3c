"""LabelEncoding: which class the pixel values and colors of label images mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from chordate.data.label_files import LabelPixels, format_color, pack_colors
from chordate.data.label_map import LabelMap, label_map
from chordate.errors import DataError

Color = tuple[int, int, int]
Background = Literal["class", "ignored"]
BACKGROUND = "background"  # name of the class of the pixels of no other class
BLACK = (0, 0, 0)
UNKNOWN = -2  # the label of values that are neither a class nor ignored


@dataclass(frozen=True)
class LabelEncoding:
    """The meaning of pixels of label images.

    Attributes:
        classes: names by label.
        ids: the pixel value of each class.
        ignored_ids: values that are ignored.
        palette: the color of each class, for label images in color; None if they have none.
        ignored_colors: colors that are expected besides the palette's; all others are ignored too.
        ids_are_default: whether `ids` count the classes, because the config sets none.
    """

    classes: tuple[str, ...]
    ids: tuple[int, ...]
    ignored_ids: tuple[int, ...] = (255,)
    palette: tuple[Color, ...] | None = None
    ignored_colors: tuple[Color, ...] = ()
    ids_are_default: bool = False

    @classmethod
    def build(
        cls,
        classes: Sequence[str],
        ids: Sequence[int] | None,
        ignored_ids: Sequence[int],
        palette: Sequence[Color] | None,
        background: Background | None,
    ) -> Self:
        """The encoding of a dataset's settings; see `SemanticDataset`.

        Raises:
            DataError: a list does not have one entry per class, or two classes have one id.
        """
        for setting, values in (("ids", ids), ("palette", palette)):
            if values is not None and len(values) != len(classes):
                raise DataError(f"{setting} has {len(values)} entries for {len(classes)} classes; give one per class")
        if ids is not None and len(set(ids)) < len(ids):
            raise DataError(f"ids has the value {max(ids, key=list(ids).count)} twice; each class needs its own")
        unnamed = background is not None and BACKGROUND not in classes
        names = [BACKGROUND, *classes] if unnamed else list(classes)
        values = list(range(len(names))) if ids is None else [0, *ids] if unnamed else list(ids)
        if unnamed and 0 in values[1:]:
            raise DataError(f'ids has 0, which is the background\'s value with background="{background}"')
        colors = None if palette is None else [BLACK, *palette] if unnamed else list(palette)
        ignored_colors: tuple[Color, ...] = ()
        if background == "ignored":
            number = names.index(BACKGROUND)
            del names[number]
            ignored_ids = [*ignored_ids, values.pop(number)]
            ignored_colors = () if colors is None else (colors.pop(number),)
        ignored = tuple(value for value in ignored_ids if value not in values)
        packed = None if colors is None else tuple(colors)
        return cls(tuple(names), tuple(values), ignored, packed, ignored_colors, ids is None)

    def reordered(self, classes: Sequence[str]) -> Self:
        """The encoding with the same classes in another order, that of a model."""
        order = [self.classes.index(name) for name in classes]
        palette = None if self.palette is None else tuple(self.palette[number] for number in order)
        return replace(self, classes=tuple(classes), ids=tuple(self.ids[number] for number in order), palette=palette)

    def lookup(self) -> NDArray[np.int16]:
        """The label of each pixel value: -1 for ignored ones, `UNKNOWN` for others, as the last entry is."""
        table = np.full(max(*self.ids, *self.ignored_ids, 0) + 2, UNKNOWN, np.int16)
        table[list(self.ignored_ids)] = -1
        table[list(self.ids)] = np.arange(len(self.ids))
        return table


class LabelDecoder:
    """Turns the pixels of label images into labels."""

    def __init__(self, encoding: LabelEncoding):
        self.lookup = encoding.lookup()
        self.packed: NDArray[np.int32] | None = None
        if encoding.palette is not None:
            self.packed = pack_colors(np.array(encoding.palette, np.uint8))
            self.order = np.argsort(self.packed)

    def __call__(self, pixels: LabelPixels, path: Path) -> LabelMap:
        """The labels `[H, W]` of ids `[H, W]` or colors `[H, W, 3]`; `path` is for messages.

        Raises:
            DataError: an id is neither a class nor ignored, or there are colors and no palette.
        """
        labels = self._of_colors(pixels, path) if pixels.ndim == 3 else self._of_ids(pixels, path)
        return label_map(torch.from_numpy(labels), torch.from_numpy(labels < 0))

    def _of_ids(self, ids: LabelPixels, path: Path) -> NDArray[np.int16]:
        last = len(self.lookup) - 1
        labels = self.lookup[ids if ids.dtype == np.uint8 and last >= 255 else np.clip(ids.astype(np.int64), -1, last)]
        if (labels == UNKNOWN).any():
            value = int(ids[labels == UNKNOWN][0])
            raise DataError(
                f"{path}: pixels have the value {value}, which is no class; add it to ids or to ignored_ids"
            )
        return labels

    def _of_colors(self, colors: LabelPixels, path: Path) -> NDArray[np.int16]:
        codes = pack_colors(colors.astype(np.uint8, copy=False))
        if self.packed is None:
            values, counts = np.unique(codes, return_counts=True)
            frequent = ", ".join(format_color(int(values[i])) for i in np.argsort(-counts, kind="stable")[:4])
            raise DataError(
                f"{path}: a label image in color ({frequent}{' …' if len(values) > 4 else ''}); set palette to the "
                f"color of each class"
            )
        position = np.minimum(np.searchsorted(self.packed[self.order], codes), len(self.packed) - 1)
        labels = self.order[position].astype(np.int16)
        labels[self.packed[labels] != codes] = -1
        return labels
