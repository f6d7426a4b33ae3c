"""Reads a dataset's label files when the dataset is opened, so that a wrong setting is an error at once rather than an
IoU of 0 after hours of training.

Of very large datasets, some files are read, and the others are checked when training or evaluation reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from chordate.data.image_headers import image_sizes
from chordate.data.label_counts import LabelCounts
from chordate.data.label_encoding import BACKGROUND, Background, LabelEncoding, remedy_of
from chordate.data.label_files import LabelPixels, format_color, pack_colors
from chordate.errors import BrokenFile, DataError
from chordate.progress import ProgressBar

# If a dataset has more pixels, only some files are read. Reading this many takes 40 s of CPU time; the label
# images of Cityscapes, ADE20K and Pascal VOC have fewer, those of COCO-Stuff have four times as many.
MAX_PIXELS = 1 << 33
FIRST_FILES = 32  # number of files from whose sizes the size of the dataset is estimated
WITH_PROGRESS = 500  # a progress bar is drawn for more files than this
MANY_COLORS = 10  # times the colors of the palette; label images with more are not made for the palette
RARE = 1e-3  # unknown values in a smaller fraction of the pixels are rather errors in a few files than another encoding
TWO_VALUED = {0, 255}  # the values of binary masks from image editors and annotation tools
log = logging.getLogger("chordate")


@dataclass
class LabelSurvey(LabelCounts):
    """The values that occur in the label files that were read.

    Attributes:
        wrong_sizes: one phrase for each file that differs in size from its image.
        total: number of label files in the dataset.
    """

    wrong_sizes: list[str] = field(default_factory=list)
    total: int = 0

    @property
    def checked(self) -> str:
        """The number of files that were read, for messages: `20 label files checked`."""
        of = f" of {self.total:,}" if self.files < self.total else ""
        return f"{self.files:,}{of} label file{'s' if self.total > 1 else ''} checked"


def survey_labels(
    pairs: Sequence[tuple[Path, Path]],
    read: Callable[[Path], LabelPixels],
    check: Callable[[LabelSurvey], None],
    skip_broken: bool = False,
) -> LabelSurvey:
    """Read the label files of a dataset in several threads, or an evenly spaced subset with about `MAX_PIXELS`.

    Args:
        pairs: the image file and the label file of each sample.
        read: reads the pixels of a label file. Called from several threads.
        check: called with the survey of the first files, before the others are read; raises an error if it suffices.
        skip_broken: whether to leave out files that cannot be read, instead of raising an error.

    Raises:
        DataError: a label file is missing or invalid, or it cannot be read and `skip_broken` is false; or as `check`.
    """

    def count(number: int) -> tuple[LabelCounts, str | None] | None:
        image, label = pairs[number]
        try:
            pixels = read(label)
        except BrokenFile:
            if skip_broken:
                return None
            raise
        return LabelCounts.of_file(label, pixels), _wrong_size(label, pixels.shape[:2], image)

    def add(numbers: Sequence[int]) -> None:
        bar = ProgressBar() if len(numbers) > WITH_PROGRESS else None
        counted = pool.map(count, numbers)
        for result in counted if bar is None else bar.track(counted, "checking label files", len(numbers)):
            if result is not None:
                survey.add(result[0])
                survey.wrong_sizes += [] if result[1] is None else [result[1]]

    survey = LabelSurvey(total=len(pairs))
    first = _spread(len(pairs), FIRST_FILES)
    pool = ThreadPoolExecutor()
    try:
        add(first)
        max_files = MAX_PIXELS * max(1, survey.files) // max(1, survey.pixels)
        if others := sorted(set(_spread(len(pairs), max_files)).difference(first)):
            check(survey)
            add(others)
    finally:
        pool.shutdown(cancel_futures=True)
    return survey


def _spread(length: int, max_count: int) -> list[int]:
    """At most `max_count` of the numbers 0 … `length` - 1, evenly spread."""
    count = min(length, max_count)
    return [number * length // count for number in range(count)]


def _wrong_size(label: Path, size: tuple[int, ...], image: Path) -> str | None:
    """Error message if the label file has another size than its image, else None."""
    try:
        sizes = image_sizes(image)
    except BrokenFile:  # reported when the image is read
        return None
    height, width = size
    return None if (height, width) in sizes else wrong_label_size(label, (height, width), image, sizes[0])


def wrong_label_size(label: Path, size: tuple[int, int], image: Path, image_size: tuple[int, int]) -> str:
    """Error message for a label file whose height and width differ from those of its image."""
    return f"{label}: {size[1]}×{size[0]}, but its image {image.name} is {image_size[1]}×{image_size[0]}"


def check_colors_and_sizes(survey: LabelSurvey, encoding: LabelEncoding, source: Path) -> None:
    """Check for the mistakes that a few label files prove. `check_encoding` also calls this function.

    Raises:
        DataError: label images are in color but there is no palette, none of very many colors is in the palette, or
            label images differ in size from their images.
    """
    if survey.colors and encoding.palette is None:
        raise DataError(
            f"{source}: label images are in color: {survey.describe(list(survey.colors), 'colors')}; {survey.checked}; "
            f"set palette to the color of each class"
        )
    if survey.wrong_sizes:
        raise DataError(f"{survey.wrong_sizes[0]} (wrong size in {len(survey.wrong_sizes)} of {survey.checked})")
    # In fewer colors, the classes may be rare and occur only in other files.
    if encoding.palette is not None and len(survey.colors) > MANY_COLORS * len(encoding.palette):
        _check_colors(survey, encoding, f"{source}: ", survey.checked)


def check_encoding(
    survey: LabelSurvey, encoding: LabelEncoding, source: Path, background: Background | None = None
) -> tuple[LabelEncoding, list[str]]:
    """Check that each value in a dataset's label files is a class or is ignored.

    Binary masks with the values 0 and 255 are a special case: if the config does not set ids and the last class has the
    default id 1, its id becomes 255, although 255 is ignored by default. The log says so: as a warning, or as
    information if `background` is set.

    Args:
        survey: the values in the dataset's files.
        encoding: the encoding that the config sets.
        source: folder of the label files, for messages.
        background: the dataset's setting `background`.

    Returns:
        The encoding (with 255 as the id of the last class for such binary masks), and lines for the log.

    Raises:
        DataError: a value is neither a class nor ignored, masks have the values 0 and 255 but there is only one class
            with the default id 0, two classes have the same color, no color is in the palette, or as
            `check_colors_and_sizes`.
    """
    where, report = f"{source}: ", []
    checked = survey.checked
    binary = encoding.default_ids is not None and encoding.ids[-1:] == (1,)
    if binary and set(survey.ids) == {*TWO_VALUED, 1} and not any({1, 255} <= values for values in survey.sets):
        raise DataError(
            f"{where}masks of 0 and 255 are mixed with masks of 0 and 1: {survey.describe([1, 255])}; {checked}; save "
            f"them with the same values, or set ids={list(encoding.default_ids or ())} to ignore 255"
        )
    if binary and set(survey.ids) == TWO_VALUED:
        advice = f"; to ignore 255, set ids={list(encoding.default_ids or ())}" if 255 in encoding.ignored_ids else ""
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
    check_colors_and_sizes(survey, encoding, source)
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
    unknown = sum(survey.ids[value] for value in values if value not in encoding.ids)
    if encoding.default_ids is not None and unknown > RARE * survey.pixels:
        count = len(encoding.default_ids)
        unnamed = encoding.default_ids[0] == 1  # whether 0 is a background that the config's `classes` does not list
        if encoding.default_ids == encoding.ids and not unnamed and BACKGROUND not in encoding.classes:
            if 0 in values and len(values) == count + 1:
                ids = "" if values == list(range(count + 1)) else f", ids={values[1:]}"
                return (
                    f'there is one value more than classes; set background="class"{ids} to learn 0, or '
                    f'background="ignored"{ids} to ignore it'
                )
            if values == list(range(1, count + 1)):
                return f'set ids={values}, or background="ignored" if 0 means no class'
        if unnamed:
            values = [value for value in values if value != 0]
        if len(values) == count and (unnamed or len(encoding.ids) == count):
            return f"set ids={values} if these are the classes"
    count = len(encoding.ids)
    known = str(list(encoding.ids)) if count <= 20 else f"{min(encoding.ids)} … {max(encoding.ids)}"
    return f"the classes' ids are {known}; correct the files, or add the others to ids or to ignored_ids"
