"""Reads the text of other frameworks' config files, with limits on their size and number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chordate.errors import NOT_REGULAR, ConfigError

MAX_BYTES = 1_000_000
MAX_FILES = 100
DELETE = "_delete_"


class SourceFiles:
    """Loads a config and its base files, and limits their size and number.

    Args:
        read: function from a file's path and text to its values. It calls `load` for the file's base files, and merges
            their values with the file's own.
    """

    def __init__(self, read: Callable[[Path, str], dict[str, Any]]):
        self._read, self._count = read, 0
        self._inside: list[Path] = []

    def load(self, path: Path) -> dict[str, Any]:
        """The values of a file, merged with those of its base files.

        Raises:
            ConfigError: the file cannot be read, is too large, or inherits from itself, or the config has more than
                MAX_FILES files.
        """
        full = path.resolve()
        self._count += 1
        if full in map(Path.resolve, self._inside):
            raise ConfigError(f"{path}: the config inherits from itself")
        if self._count > MAX_FILES:
            raise ConfigError(
                f"{path}: the limit of {MAX_FILES} files per config (with base files) is exceeded; merge some files"
            )
        try:
            text = read_source(path)
        except ConfigError as error:
            if not self._inside:
                raise
            raise ConfigError(f"{self._inside[-1]}: base file {error}") from error
        self._inside.append(path)
        values = self._read(path, text)
        self._inside.pop()
        return values


def read_source(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigError: the file is missing, not regular, too large, or not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: {'is a folder; name a config file' if path.is_dir() else NOT_REGULAR}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: the file is larger than {MAX_BYTES:,} bytes, so it is not a config")
        return content.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text; save the file as UTF-8"
        raise ConfigError(f"{path}: {reason}") from error


def merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dicts: `values` overrides `base`; a dict with `_delete_=True` replaces the dict in `base`."""
    result = dict(base)
    for key, value in values.items():
        if isinstance(value, Mapping):
            old = result.get(key)
            inherited = old if isinstance(old, Mapping) and not value.get(DELETE) else {}
            result[key] = merged(inherited, {name: item for name, item in value.items() if name != DELETE})
        else:
            result[key] = value
    return result
