"""Reads zips as folders: finds the zip in a path, and lists its members."""

import zipfile
import zlib
from pathlib import Path

from chordate.errors import DataError

# Errors for members that are damaged, truncated, encrypted, or compressed by a method that Python does not support.
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)


def split_archive(folder: Path) -> tuple[Path | None, str]:
    """The zip file in a folder's path, if there is one, and the prefix of the zip's members in that folder."""
    for path in (folder, *folder.parents):
        if path.suffix == ".zip" and path.is_file():
            inner = folder.relative_to(path).as_posix()
            return path, "" if inner == "." else f"{inner}/"
    return None, ""


def members(archive: Path) -> list[str]:
    """Names of a zip's members; those of folders end with a slash.

    Raises:
        DataError: the file is truncated or not a zip.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive}: not a zip, or truncated: {error}") from error
