"""Imports the plug-ins: modules of installed packages with an entry point in the group `chordate.plugins`."""

import re
import sys
import warnings
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points

from chordate.text import one_line

GROUP = "chordate.plugins"
loaded = False  # whether `load_plugins` was called
_packages: set[str] = set()  # top-level packages that `load_plugins` imported


def load_plugins() -> None:
    """Import every installed plug-in once; warn about plug-ins that cannot be imported."""
    global loaded
    if loaded:
        return
    loaded = True
    for entry in _entries():
        try:
            if not entry.pattern.match(entry.value):
                raise ImportError("its entry point must be the name of a module")
            if entry.module not in sys.modules:
                _packages.add(_top_level(entry.module))
            entry.load()
        except (Exception, SystemExit) as error:  # a broken third-party package must not stop the run
            reason = one_line(error) or type(error).__name__
            warnings.warn(f"plug-in {entry.name} ({entry.value}) could not be imported: {reason}", stacklevel=2)


def was_plugin(module: str) -> bool:
    """Whether a module's package was imported by `load_plugins`, not by a config or the user."""
    return _top_level(module) in _packages


def describe_module(module: str) -> str:
    """Describe a module for error messages: `chordate-spine 1.0 (chordate_spine)` for a plug-in, else only its name."""
    for entry in _entries():
        if _top_level(entry.value) == _top_level(module) and entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version} ({module})"
    return module


def _entries() -> Collection[EntryPoint]:
    """The plug-ins' entry points; none, with a warning, if the metadata of an installed package cannot be parsed."""
    try:
        return entry_points(group=GROUP)
    except Exception as error:  # importlib.metadata raises errors of many types
        warnings.warn(f"plug-ins could not be listed, since a package has damaged metadata: {error}", stacklevel=3)
        return []


def _top_level(module: str) -> str:
    """The top-level package of a module or of an entry point's value: `spine` for "spine.backbones:PatchNet"."""
    return re.split(r"\W", module, maxsplit=1)[0]
