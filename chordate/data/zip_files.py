"""Zips as folders: where one stands in a path, and what it holds."""

import zipfile
import zlib
from pathlib import Path

from chordate.errors import DataError

# What reading a member may raise: damaged, cut short, encrypted, or packed in a way that Python does not know.
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)


def split_archive(folder: Path) -> tuple[Path | None, str]:
    """The zip on the way to a folder, if there is one, and what its members in that folder begin with."""
    for path in (folder, *folder.parents):
        if path.suffix == ".zip" and path.is_file():
            inner = folder.relative_to(path).as_posix()
            return path, "" if inner == "." else f"{inner}/"
    return None, ""


def members(archive: Path) -> list[str]:
    """What a zip holds: files, and folders with a slash at the end.

    Raises:
        DataError: it is no zip, or was cut short.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive}: not a zip, or cut short: {error}") from error
