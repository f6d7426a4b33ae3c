"""Functions that read zip files like folders: find the zip file in a path, and list its members."""

import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from chordate.errors import DataError

# Errors that Python raises for members that are damaged, truncated or encrypted, or use unsupported compression.
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, struct.error)
MAX_UNPACKED_BYTES = 1 << 30  # limit on all members unpacked together; a small zip can claim any size


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
    except UNREADABLE as error:
        raise DataError(f"{archive}: not a zip, or truncated: {error}") from error


def check_unpacked_size(archive: zipfile.ZipFile, names: Iterable[str], path: Path) -> None:
    """Check the size of members before they are unpacked; `path` is for messages.

    Raises:
        DataError: the members have more than MAX_UNPACKED_BYTES together.
    """
    size = sum(archive.getinfo(name).file_size for name in names)
    if size > MAX_UNPACKED_BYTES:
        raise DataError(f"{path}: {size:,} bytes when unpacked, more than the limit of {MAX_UNPACKED_BYTES:,}")
