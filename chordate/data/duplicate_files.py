"""Reports the images of an annotation file that have the same image file."""

from collections.abc import Sequence
from typing import Any

from chordate.errors import DataError
from chordate.text import pluralize, printable


def report_duplicate_files(
    names: Sequence[str], sizes: Sequence[tuple[int, int]], ids: Sequence[Any], source: str
) -> list[str]:
    """A list of one line about images with the file of an earlier image; empty if there are none.

    Args:
        names: file name of each image.
        sizes: height and width of each image.
        ids: id of each image in the annotation file.
        source: the annotation file, for messages.

    Raises:
        DataError: two images with the same file have different sizes.
    """
    first: dict[str, int] = {}
    repeated = [(number, name) for number, name in enumerate(names) if first.setdefault(name, number) != number]
    if not repeated:
        return []
    for number, name in repeated:
        if sizes[number] != sizes[first[name]]:
            (h1, w1), (h2, w2) = sizes[first[name]], sizes[number]
            raise DataError(
                f"{source}: the images {ids[first[name]]} and {ids[number]} both have the file_name {printable(name)}, "
                f"but different sizes, {w1}×{h1} and {w2}×{h2}; correct one of them"
            )
    number, name = repeated[0]
    return [
        f"{source}: {pluralize(len(repeated), 'image')} with the file_name of an earlier image, the first: "
        f"{printable(name)} (ids {ids[first[name]]} and {ids[number]}); each is a sample of its own, in which the "
        f"objects of the others are background"
    ]
