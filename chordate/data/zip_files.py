"""Functions that read zip files like folders: find the zip file in a path, and list its members."""

import zipfile
import zlib
from pathlib import Path

from chordate.errors import DataError

# Errors that Python raises for members that are damaged, truncated, encrypted, or compressed by an unsupported method.
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)


def split_archive(folder: Path) -> tuple[Path | None, str]:
    """Split `a.zip/b` into the path of the zip and the prefix of its members, "b/"; (None, "") if there is no zip."""
    for path in (folder, *folder.parents):
        if path.suffix == ".zip" and path.is_file():
            inner = folder.relative_to(path).as_posix()
            return path, "" if inner == "." else f"{inner}/"
    return None, ""


def members(archive: Path) -> list[str]:
    """Names of the members of a zip file; the names of folders end with a slash.

    Raises:
        DataError: the file is truncated or not a zip.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive}: not a zip, or truncated: {error}") from error
