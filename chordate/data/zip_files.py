"""Reads zips as folders: finds the zip in a path, and lists its members."""

import zipfile
import zlib
from pathlib import Path

from chordate.errors import DataError

# Errors of reading a member that is damaged, truncated, encrypted, or compressed in a way that Python does not support.
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)


def split_archive(folder: Path) -> tuple[Path | None, str]:
    """The zip in the path of a folder, if there is one, and the prefix of its members in that folder."""
    for path in (folder, *folder.parents):
        if path.suffix == ".zip" and path.is_file():
            inner = folder.relative_to(path).as_posix()
            return path, "" if inner == "." else f"{inner}/"
    return None, ""


def members(archive: Path) -> list[str]:
    """Names of a zip's members: files, and folders with a slash at the end.

    Raises:
        DataError: it is not a zip, or truncated.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive}: not a zip, or truncated: {error}") from error
