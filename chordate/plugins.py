"""Imports the plug-ins: modules of installed packages with an entry point in the group `chordate.plugins`."""

import sys
import warnings
from importlib.metadata import entry_points

GROUP = "chordate.plugins"
loaded = False  # whether `load_plugins` was called
_packages: set[str] = set()  # top-level packages that `load_plugins` imported


def load_plugins() -> None:
    """Import every installed plug-in once; warn about plug-ins that cannot be imported."""
    global loaded
    if loaded:
        return
    loaded = True
    for entry in entry_points(group=GROUP):
        try:
            if entry.module not in sys.modules:
                _packages.add(_top_level(entry.module))
            entry.load()
        except (Exception, SystemExit) as error:  # a broken third-party package must not stop the run
            reason = one_line(error) if _is_valid(entry) else "its entry point does not name a module"
            warnings.warn(f"plug-in {entry.name} ({entry.value}) could not be imported: {reason}", stacklevel=2)


def was_plugin(module: str) -> bool:
    """Whether `load_plugins` imported a module's package, rather than a config or the user."""
    return _top_level(module) in _packages


def describe_module(module: str) -> str:
    """A module for error messages: `chordate-spine 1.0 (chordate_spine)` in a plug-in's package, or only its name."""
    for entry in entry_points(group=GROUP):
        if _top_level(entry.module) == _top_level(module) and entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version} ({module})"
    return module


def _top_level(module: str) -> str:
    return module.partition(".")[0]
