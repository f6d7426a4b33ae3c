"""Finds files by the names in annotation files, which may have backslashes or a wrong path; lists each folder once."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from chordate.errors import DataError
from chordate.text import printable

ABSOLUTE = re.compile(r"/|[A-Za-z][A-Za-z+]*:")  # "/photos/1.jpg", "C:/photos/1.jpg", "https://…/1.jpg"


class FileListing:
    """The files in a folder and its subfolders, each of which is listed when a file in it is first looked up.

    Args:
        folder: the folder that all names are relative to; it may be missing.
        source: the annotation file that has the names, for messages.
    """

    def __init__(self, folder: Path, source: Path | str = ""):
        self.folder, self.source = folder, source
        self._parts = Path(os.path.abspath(folder)).parts
        self._listed: dict[str, set[str]] = {}
        self._found: dict[str, str] = {}  # the absolute path for which `find` returned a relative path

    def __contains__(self, name: str) -> bool:
        """Whether there is a file with this name."""
        inside, last = os.path.split(name)
        if inside not in self._listed:
            self._listed[inside] = _list(self.folder / inside)
        # A file system may ignore case or Unicode normalization, so a file whose name is not listed may still exist.
        return last in self._listed[inside] or _is_file(self.folder / name)

    def find(self, name: str) -> str:
        """Find a file; returns its path relative to the folder.

        If no file is called `name`, backslashes (from Windows) are replaced by slashes, and letters with accents (from
        macOS) by the other Unicode normal form. If there is still no such file, leading folders are removed, provided
        that this finds a file: those that repeat the end of the folder's path (`images/1.jpg` in the folder `images`),
        and, of an absolute path, those up to the folder's name. Otherwise, returns `name` with slashes.

        Raises:
            DataError: two absolute paths lead to the same file.
        """
        if name in self:
            return name
        name = name.replace("\\", "/")
        parts = Path(name).parts
        for count in range(len(parts)):
            if count and not self._is_own_path(parts[:count]):
                continue
            for relative in _normal_forms(str(Path(*parts[count:])) if count else name):
                if relative in self:
                    return self._check_unique(relative, name) if count and ABSOLUTE.match(name) else relative
        return name

    def _is_own_path(self, parts: tuple[str, ...]) -> bool:
        """Whether the leading parts of a name are a path of this folder, maybe on another machine."""
        if ABSOLUTE.match(parts[0]):
            return parts[-1:] == self._parts[-1:]
        return parts == self._parts[-len(parts) :]

    def _check_unique(self, relative: str, name: str) -> str:
        """Returns `relative`; raises DataError if it was found for another name than `name`."""
        if (other := self._found.setdefault(relative, name)) != name:
            raise DataError(
                f"{f'{self.source}: ' if self.source else ''}the file names {printable(other)} and {printable(name)} "
                f"both lead to {self.folder / relative}; correct them"
            )
        return relative


def _normal_forms(name: str) -> Iterator[str]:
    """A name, and, unless it is ASCII, its Unicode normal forms NFC and NFD."""
    yield name
    if not name.isascii():
        yield from (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))


def _list(folder: Path) -> set[str]:
    """The names of the regular files in a folder, and of links to such files."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # ValueError: an impossible name
        return set()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or impossible
        return False
