"""Reads text files written by hand: UTF-8 with or without byte order mark, with any line endings and empty lines."""

from pathlib import Path

from chordate.data.paths import missing_file
from chordate.errors import DataError, MissingFile


def read_text(file: Path, kind: str) -> str:
    """Read a text file; `kind` is for messages, such as "image list".

    Raises:
        DataError: the file is missing, cannot be read, or is not UTF-8.
    """
    if not file.is_file():
        raise MissingFile(missing_file(file, kind))
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def read_lines(file: Path, kind: str) -> list[str]:
    """The lines of a text file without surrounding spaces; empty lines are left out."""
    return [line.strip() for line in read_text(file, kind).splitlines() if line.strip()]
