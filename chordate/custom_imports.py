"""Imports the modules listed in a config's `custom_imports`, so that they register their components."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from chordate.allowed_values import format_value
from chordate.errors import ChordateError, ConfigError
from chordate.text import one_line

log = logging.getLogger("chordate")


def look_for_modules_in(folder: Path) -> None:
    """Add the current folder and a config's folder to `sys.path`, so that modules in them can be imported."""
    for path in (str(Path.cwd()), str(folder.resolve())):
        if path not in sys.path:
            sys.path.append(path)


def import_custom_modules(wanted: Any, source: str) -> None:
    """Import the modules listed in `custom_imports`; modules that are already imported are not reloaded.

    Args:
        wanted: the section `custom_imports`; None imports nothing.
        source: the file that contains the section, for error messages.

    Raises:
        ConfigError: the section is invalid, or a module cannot be imported.
    """
    if wanted is None:
        return
    modules = wanted.get("imports") if isinstance(wanted, Mapping) else None
    modules = [modules] if isinstance(modules, str) else modules
    if (
        not isinstance(modules, list | tuple)
        or not all(isinstance(name, str) and name for name in modules)
        or not set(wanted) <= {"imports", "allow_failed_imports"}
    ):
        raise ConfigError(f'{source}: write custom_imports = dict(imports=["my_module"]), got {format_value(wanted)}')
    for module in modules:
        where = f"{source}: custom_imports: {module}"
        try:
            import_module(module)
        except ChordateError:
            raise
        except (Exception, SystemExit) as error:  # a user's module may raise any exception
            if not (wanted.get("allow_failed_imports") and isinstance(error, ImportError)):
                raise ConfigError(import_error(where, error)) from error
            log.warning("%s", import_error(where, error))


def import_error(source: str, error: BaseException) -> str:
    """Format an exception on one line, as in `mine.py: NameError: name 'x' is not defined`."""
    return f"{source}: {type(error).__name__}: {one_line(error)}"
