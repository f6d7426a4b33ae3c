"""Checks some of a dataset's label files when the dataset is opened, so that a wrong setting is an error at once rather
than an IoU of 0 after hours of training.

The other files are checked when they are read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from chordate.data.image_headers import image_sizes
from chordate.data.label_encoding import BACKGROUND, Background, LabelEncoding, remedy_of
from chordate.data.label_files import LabelPixels, format_color, pack_colors
from chordate.errors import BrokenFile, DataError

SAMPLE = 32  # number of label files to check
# Approximate limit on pixels per file whose colors are counted. Counting needs a sort, so large images are subsampled.
MAX_COLOR_PIXELS = 1 << 18
LISTED = 5  # maximum number of values in a message
TWO_VALUED = {0, 255}  # the values of binary masks from image editors and annotation tools
log = logging.getLogger("chordate")


@dataclass
class LabelSurvey:
    """The values that occur in the checked label files.

    Attributes:
        ids, colors: number of pixels of each id and of each packed color (see `pack_colors`).
        examples: the first file with each value, keyed by kind ("ids" or "colors") and value.
        files: number of files that were read.
        wrong_sizes: one phrase for each file that differs in size from its image.
    """

    ids: Counter[int] = field(default_factory=Counter)
    colors: Counter[int] = field(default_factory=Counter)
    examples: dict[tuple[str, int], Path] = field(default_factory=dict)
    files: int = 0
    wrong_sizes: list[str] = field(default_factory=list)

    def add(self, path: Path, pixels: LabelPixels) -> None:
        """Count the pixels of one file."""
        kind, counter, values = "ids", self.ids, pixels
        if pixels.ndim == 3:
            step = max(1, round((pixels.shape[0] * pixels.shape[1] / MAX_COLOR_PIXELS) ** 0.5))
            kind, counter, values = "colors", self.colors, pack_colors(pixels[::step, ::step].astype(np.uint8))
        if kind == "ids" and values.dtype.itemsize <= 2 and values.dtype.kind == "u":
            counts = np.bincount(values.ravel())
            present = np.flatnonzero(counts)
            counts = counts[present]
        else:
            present, counts = np.unique(values, return_counts=True)
        for value, count in zip(present.tolist(), counts.tolist()):
            counter[value] += count
            self.examples.setdefault((kind, value), path)
        self.files += 1

    def describe(self, values: Sequence[int], kind: str = "ids") -> str:
        """Format values by descending frequency, for messages: `19 (1.2 % of the pixels, a.png), 33 (0.1 %, b.png)`."""
        counter = self.ids if kind == "ids" else self.colors
        total = sum(counter.values())
        phrases: list[str] = []
        for value in sorted(values, key=lambda value: -counter[value])[:LISTED]:
            name = format_color(value) if kind == "colors" else str(value)
            of = " of the pixels" if not phrases else ""
            phrases.append(f"{name} ({_percent(counter[value] / total)}{of}, {self.examples[kind, value].name})")
        return ", ".join(phrases) + (f" and {len(values) - LISTED} more" if len(values) > LISTED else "")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.01 else f"{100 * fraction:.2g} %"


def survey_labels(
    pairs: Sequence[tuple[Path, Path]], read: Callable[[Path], LabelPixels], skip_broken: bool = False
) -> LabelSurvey:
    """Read `SAMPLE` label files, spread evenly over a dataset.

    As long as only one value occurs (the masks are empty), more files are read, since the other values are unknown.

    Args:
        pairs: the image file and the label file of each sample.
        read: reads the pixels of a label file.
        skip_broken: whether to leave out files that cannot be read, instead of raising an error.

    Raises:
        DataError: a label file is missing or invalid, or it cannot be read and `skip_broken` is false.
    """
    survey = LabelSurvey()
    first = range(0, len(pairs), max(1, len(pairs) // SAMPLE))[:SAMPLE]
    chosen = set(first)
    for number in [*first, *(number for number in range(len(pairs)) if number not in chosen)]:
        if survey.files >= SAMPLE and len(survey.ids) + len(survey.colors) > 1:
            break
        image, label = pairs[number]
        try:
            pixels = read(label)
        except BrokenFile:
            if skip_broken:
                continue
            raise
        survey.add(label, pixels)
        height, width = pixels.shape[:2]
        try:
            sizes = image_sizes(image)
        except BrokenFile:  # reported when the image is read
            continue
        if (height, width) not in sizes:
            survey.wrong_sizes.append(wrong_label_size(label, (height, width), image, sizes[0]))
    return survey


def wrong_label_size(label: Path, size: tuple[int, int], image: Path, image_size: tuple[int, int]) -> str:
    """Error message for a label file whose height and width differ from those of its image."""
    return f"{label}: {size[1]}×{size[0]}, but its image {image.name} is {image_size[1]}×{image_size[0]}"


def check_encoding(
    survey: LabelSurvey, encoding: LabelEncoding, source: Path, background: Background | None = None
) -> tuple[LabelEncoding, list[str]]:
    """Check that each value in a dataset's label files is a class or is ignored.

    Binary masks with the values 0 and 255 are a special case: if the config does not set ids and the last class has the
    default id 1, its id becomes 255, although 255 is ignored by default. The log says so; it is no warning if
    `background` is set.

    Args:
        survey: the values in the dataset's files.
        encoding: the encoding that the config sets.
        source: folder of the label files, for messages.
        background: the setting of this name.

    Returns:
        The encoding (with 255 as the id of the last class for such binary masks), and lines for the log.

    Raises:
        DataError: a value is neither a class nor ignored, masks have the values 0 and 255 but there is only one class
            with the default id 0, label images are in color but there is no palette, two classes have the same color,
            no color is in the palette, or label images differ in size from their images.
    """
    where, report = f"{source}: ", []
    checked = f"{survey.files} label file{'s' if survey.files > 1 else ''} checked"
    if set(survey.ids) == TWO_VALUED and encoding.default_ids is not None and encoding.ids[-1:] == (1,):
        advice = f"; to ignore 255, set ids={list(encoding.default_ids)}" if 255 in encoding.ignored_ids else ""
        ids, ignored = (*encoding.ids[:-1], 255), tuple(value for value in encoding.ignored_ids if value != 255)
        encoding = replace(encoding, ids=ids, ignored_ids=ignored)
        line = f'{where}masks of 0 and 255: 255 is "{encoding.classes[-1]}", not ignored{advice}'
        if background is None:
            report.append(line)
        else:
            log.info(line)
    meant = {*encoding.ids, *encoding.ignored_ids}
    unknown = [value for value in survey.ids if value not in meant]
    if unknown:
        value = max(unknown, key=survey.ids.__getitem__)
        raise DataError(
            f"{survey.examples['ids', value]}: pixels have the value {value}, which is not a class; {checked}, "
            f"unknown values: {survey.describe(unknown)}; {_remedy(survey, encoding)}"
        )
    if set(survey.ids) == TWO_VALUED and encoding.ids == encoding.default_ids == (0,):
        raise DataError(
            f'{where}the masks have the values 0 and 255, but the only class "{encoding.classes[0]}" has the id 0 by '
            f'default; set background="class" to learn 0 as the background, or background="ignored" to ignore 0'
        )
    if survey.colors and encoding.palette is None:
        raise DataError(
            f"{where}label images are in color: {survey.describe(list(survey.colors), 'colors')}; {checked}; set "
            f"palette to the color of each class"
        )
    if survey.wrong_sizes:
        raise DataError(f"{survey.wrong_sizes[0]} (wrong size in {len(survey.wrong_sizes)} of {checked})")
    if survey.colors:
        report += _check_colors(survey, encoding, where, checked)
    if survey.ids and not survey.colors and not set(survey.ids) & set(encoding.ids):
        report.append(f"{where}no pixel has a class: {survey.describe(list(survey.ids))}; {checked}")
    return encoding, report


def _check_colors(survey: LabelSurvey, encoding: LabelEncoding, where: str, checked: str) -> list[str]:
    """Make log lines about colors outside the palette.

    Raises:
        DataError: two classes have the same color, or no color is in the palette.
    """
    packed = pack_colors(np.array(encoding.palette, np.uint8)).tolist()
    palette = set(packed)
    if len(palette) < len(packed):
        twice = max(packed, key=packed.count)
        names = " and ".join(name for name, color in zip(encoding.classes, packed) if color == twice)
        raise DataError(f"{where}palette has the color {format_color(twice)} twice ({names}); colors must be distinct")
    ignored = {int(pack_colors(np.array(color, np.uint8))) for color in encoding.ignored_colors}
    outside = [color for color in survey.colors if color not in palette | ignored]
    if not outside:
        return []
    listed = survey.describe(outside, "colors")
    if not palette & set(survey.colors):
        swapped = {(color & 255) << 16 | color & 0xFF00 | color >> 16 for color in survey.colors}
        hint = "; red and blue are exchanged" if palette & swapped - set(survey.colors) else ""
        raise DataError(f"{where}no color of the palette occurs, but {listed}; {checked}{hint}")
    return [f"{where}colors outside the palette are ignored: {listed}; {checked}"]


def _remedy(survey: LabelSurvey, encoding: LabelEncoding) -> str:
    """A phrase that names the setting to change, so that the values in the files are classes or ignored."""
    values = sorted(set(survey.ids) - set(encoding.ignored_ids))
    if invalid := [value for value in values if remedy_of(value) != remedy_of(0)]:
        return remedy_of(invalid[0])
    if encoding.default_ids is not None:
        count = len(encoding.default_ids)
        unnamed = encoding.default_ids[0] == 1  # whether pixels with the value 0 are an unnamed background
        if encoding.default_ids == encoding.ids and not unnamed and BACKGROUND not in encoding.classes:
            if 0 in values and len(values) == count + 1:
                ids = "" if values == list(range(count + 1)) else f", ids={values[1:]}"
                return (
                    f'one value more than classes: background="class"{ids} to learn 0, background="ignored"{ids} to '
                    f"leave it out"
                )
            if values == list(range(1, count + 1)):
                return f'ids={values}, or background="ignored" if 0 means no class'
        if unnamed:
            values = [value for value in values if value != 0]
        if len(values) == count and (unnamed or len(encoding.ids) == count):
            return f"ids={values} if these are the classes"
    count = len(encoding.ids)
    known = str(list(encoding.ids)) if count <= 20 else f"{min(encoding.ids)} … {max(encoding.ids)}"
    return f"the classes' ids are {known}; add the others to ids or to ignored_ids"
