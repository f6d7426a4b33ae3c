"""Reads JSON files of annotations in any Unicode encoding; raises a one-line error if a file is broken."""

import json
from pathlib import Path
from typing import Any

from chordate.data.paths import missing_file
from chordate.errors import DataError, MissingFile
from chordate.text import printable

COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ")  # gzip, zip, bzip2, xz
MAX_DIGITS = 400  # an integer with more digits exceeds every float


def read_json(path: Path, what: str = "COCO annotations") -> Any:
    """Read a JSON file: UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    NaN and Infinity are read as floats, although JSON does not have them; many tools write them.

    Args:
        path: the file.
        what: description of the expected content, for messages.

    Raises:
        DataError: the file is missing, truncated, too deeply nested, not Unicode or not JSON.
    """
    if not path.is_file():
        raise MissingFile(missing_file(path, "annotation"))
    data = path.read_bytes()
    if data.startswith(COMPRESSED):
        raise DataError(f"{path}: not {what}: the file is compressed; unpack it")
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        before = data[max(0, error.start - 20) : error.end].decode("ascii", "replace")
        raise DataError(
            f"{path}: not {what}, or truncated: byte {error.start:,} is not {error.encoding.upper()} (after "
            f"{printable(before)}); save the file as UTF-8, for example with iconv -f latin1 -t utf-8"
        ) from error
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # Python refuses to convert integers of thousands of digits
            return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < MAX_DIGITS else float(digits))
    except RecursionError as error:
        raise DataError(f"{path}: not {what}: lists or objects are nested too deeply") from error
    except (ValueError, MemoryError) as error:
        raise DataError(f"{path}: not {what}, or truncated: {error or 'it does not fit into memory'}") from error
