"""LabelCounts: how often each value occurs in label files, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from chordate.data.label_files import LabelPixels, format_color, pack_colors

LISTED = 5  # maximum number of values in a message
MAX_COLORS = 1 << 16  # maximum number of colors of a dataset that are counted; photos have more
FEW_VALUES = 3  # files with at most this many ids are counted by their set of ids


@dataclass
class LabelCounts:
    """The values that occur in label files.

    Attributes:
        ids, colors: number of pixels of each id and of each packed color (see `pack_colors`). After `MAX_COLORS`
            colors, `add` counts no new ones.
        examples: the file with each value that was read first, keyed by kind ("ids" or "colors") and value.
        occurrences: number of files with each value, with the same keys.
        sets: the sets of ids of the files with at most `FEW_VALUES` ids.
        files, pixels: number of files and pixels.
    """

    ids: Counter[int] = field(default_factory=Counter)
    colors: Counter[int] = field(default_factory=Counter)
    examples: dict[tuple[str, int], Path] = field(default_factory=dict)
    occurrences: Counter[tuple[str, int]] = field(default_factory=Counter)
    sets: set[frozenset[int]] = field(default_factory=set)
    files: int = 0
    pixels: int = 0

    @classmethod
    def of_file(cls, path: Path, pixels: LabelPixels) -> LabelCounts:
        """The counts of one file."""
        counts, kind = cls(files=1), "ids" if pixels.ndim == 2 else "colors"
        numbers = count_values(pixels if kind == "ids" else pack_colors(pixels.astype(np.uint8, copy=False)))
        counts.pixels = sum(numbers.values())
        (counts.ids if kind == "ids" else counts.colors).update(numbers)
        counts.examples = dict.fromkeys(((kind, value) for value in numbers), path)
        counts.occurrences.update(counts.examples.keys())
        if kind == "ids" and len(numbers) <= FEW_VALUES:
            counts.sets.add(frozenset(numbers))
        return counts

    def add(self, other: LabelCounts) -> None:
        """Add the counts of other files."""
        self.ids.update(other.ids)
        for color, count in other.colors.items():
            if color in self.colors or len(self.colors) < MAX_COLORS:
                self.colors[color] += count
        for key, file in other.examples.items():
            if key[0] == "ids" or key[1] in self.colors:
                self.examples.setdefault(key, file)
                self.occurrences[key] += other.occurrences[key]
        self.sets |= other.sets
        self.files += other.files
        self.pixels += other.pixels

    def describe(self, values: Sequence[int], kind: str = "ids", name_files: bool = True) -> str:
        """Format values by descending frequency, for messages: `19 (1.2 % of the pixels, a.png and 2 other files), 33
        (0.1 %, b.png)`."""
        counter = self.ids if kind == "ids" else self.colors
        phrases: list[str] = []
        for value in sorted(values, key=lambda value: -counter[value])[:LISTED]:
            name = format_color(value) if kind == "colors" else str(value)
            of = "" if phrases else " of the pixels"
            where = f", {self._files(kind, value)}" if name_files else ""
            phrases.append(f"{name} ({_percent(counter[value], self.pixels, of)}{where})")
        return ", ".join(phrases) + (f" and {len(values) - LISTED} more" if len(values) > LISTED else "")

    def _files(self, kind: str, value: int) -> str:
        others = self.occurrences[kind, value] - 1
        name = self.examples[kind, value].name
        return f"{name} and {others:,} other file{'s' if others > 1 else ''}" if others else name


def count_values(values: LabelPixels) -> dict[int, int]:
    """The number of occurrences of each value.

    Only the first value of each run of equal values is sorted: label images have long runs, so that this is faster than
    `np.unique` or `np.bincount` of all pixels.
    """
    flat = values.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    present, of_run = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(of_run, np.diff(starts, append=len(flat)))
    return dict(zip(present.tolist(), counts.astype(np.int64).tolist()))


def _percent(count: int, total: int, of: str) -> str:
    percent = 100 * count / total
    if percent < 0.001:
        return f"{count:,} pixel{'s' if count > 1 else ''}"
    return f"{percent:.0f} %{of}" if percent >= 1 else f"{percent:.2g} %{of}"
