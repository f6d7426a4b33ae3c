"""Chordate: models of any backbone, neck and head, built from a config; training, evaluation and prediction.

Importing the package is fast: each public name is imported from its module at first access. `__init__.pyi` lists the
public names, as in SPEC 1 of Scientific Python (scientific-python.org/specs/spec-0001).
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_IMPORTS = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
_MODULE_OF = {
    name.name: str(line.module) for line in _IMPORTS if isinstance(line, ast.ImportFrom) for name in line.names
}
__all__ = sorted(_MODULE_OF)
# The corresponding functions of timm, torchvision, MMDetection, MMSegmentation and MMPretrain.
_NAMES_HERE = {
    **dict.fromkeys(("create_model", "get_model", "init_detector", "init_model"), "build_model"),
    **dict.fromkeys(("inference_detector", "inference_model"), "predict"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        ours = f"; use chordate.{_NAMES_HERE[name]}" if name in _NAMES_HERE else ""
        raise AttributeError(f"module 'chordate' has no attribute {name!r}{ours}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
