"""Recognizes the Python configs of other frameworks by their syntax."""

from __future__ import annotations

import ast
from typing import Literal


def foreign_syntax(code: ast.Module) -> Literal["read_base", "LazyConfig"] | None:
    """The syntax of a config that only another framework can read: `with read_base():` of OpenMMLab, or a LazyConfig of
    Detectron2; None if it has neither.

    A LazyConfig imports `LazyCall`, another config's part from a folder `common`, or `get_config` of Detectron2's model
    zoo. Other imports from Detectron2 may be in any config.
    """
    if any(isinstance(node, ast.With) and "read_base" in ast.unparse(node.items[0]) for node in code.body):
        return "read_base"
    if any(isinstance(node, ast.ImportFrom) and _is_lazy(node) for node in code.body):
        return "LazyConfig"
    return None


def _is_lazy(node: ast.ImportFrom) -> bool:
    module, names = node.module or "", {alias.name for alias in node.names}
    if node.level:
        return "common" in module.split(".")[:-1]
    return "LazyCall" in names or (module == "detectron2.model_zoo" and "get_config" in names)
