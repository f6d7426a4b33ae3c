"""Matches Pascal VOC's XML files with images, and with the names in image lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from chordate.data.image_files import image_stem
from chordate.data.text_lists import read_lines
from chordate.errors import DataError


class ImageMatcher:
    """Finds the image of an XML file: the one with the same name, or else the one that `<filename>` names.

    Suffixes may differ. Names with their folders are compared first, then names alone.

    Args:
        images: paths of the images, relative to their folder.
    """

    def __init__(self, images: Sequence[str]):
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for image in images:
            stem = image_stem(image)
            self._by_path[stem].append(image)
            self._by_name[last_part(stem)].append(image)

    def find(self, stem: str, filename: str, file: Path) -> str | None:
        """The path of the image relative to the images' folder; None if there is none.

        Args:
            stem: path of the XML file relative to its folder, without suffix.
            filename: the XML file's `<filename>`.
            file: the XML file, for messages.

        Raises:
            DataError: several images fit equally well.
        """
        named = image_stem(filename)
        for images in (
            self._by_path.get(stem),
            self._by_path.get(named),
            self._by_name.get(last_part(stem)),
            self._by_name.get(last_part(named)),
        ):
            if images:
                return images[0] if len(images) == 1 else _choose(images, filename, file)
        return None

    def is_other(self, filename: str, image: str) -> bool:
        """Whether `filename` names an existing image other than `image`."""
        images = self._by_path.get(image_stem(filename), [])
        return bool(images) and image not in images


def _choose(images: Sequence[str], filename: str, file: Path) -> str:
    for fitting in ([i for i in images if i == filename], [i for i in images if last_part(i) == last_part(filename)]):
        if len(fitting) == 1:
            return fitting[0]
    raise DataError(f"{file}: its image could be {images[0]} or {images[1]}; write the image's path into <filename>")


def last_part(path: str) -> str:
    return path.rpartition("/")[2]


def read_image_list(file: Path, stems: Iterable[str], source: Path) -> list[str]:
    """Read an image list: a text file with one name per line.

    The folder and the suffix of a name may be left out. A flag after the name, as in VOC's lists per class, is ignored.

    Args:
        file: the list.
        stems: paths of the XML files relative to their folder, without suffix.
        source: the folder of the XML files, for messages.

    Returns:
        The listed elements of `stems`, in the order of `stems`.

    Raises:
        DataError: the file is missing or not text, has no names, or a name has no XML file.
    """
    stems = list(stems)
    by_name: dict[str, list[str]] = defaultdict(list)
    for stem in stems:
        by_name[last_part(stem)].append(stem)
    known = {name: same[0] for name, same in by_name.items() if len(same) == 1} | {stem: stem for stem in stems}
    listed: set[str] = set()
    for line in read_lines(file, "image list"):
        line = line.replace("\\", "/")
        names = [image_stem(text).removesuffix(".xml") for text in (line, line.rsplit(None, 1)[0], line.split()[0])]
        found = [known[name] for name in (*names, *(PurePosixPath(name).name for name in names)) if name in known]
        if not found:
            raise DataError(f'{file}: "{line.split()[0]}" has no XML file in {source}')
        listed.add(found[0])
    if not listed:
        raise DataError(f"{file}: no names; list one image per line")
    return [stem for stem in stems if stem in listed]
