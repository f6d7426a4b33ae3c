"""Reads the literals of Python and JSON, and `dict(key=value)`, in config files and options, without running code."""

import ast
from typing import Any

_JSON = {"true": True, "false": False, "null": None}


def literal(code: str) -> Any:
    """The value of a literal: numbers, strings, True, False, None, lists, tuples, sets and dicts, nested in any way.

    A dict may be written as a call, `dict(type="SGD", lr=0.1)`; JSON's `true`, `false` and `null` are accepted.

    Raises:
        SyntaxError, ValueError: the code is not a literal; it is not executed.
    """
    return ast.literal_eval(_Literals().visit(ast.parse(code.strip(), mode="eval")))


class _Literals(ast.NodeTransformer):
    """Replaces calls `dict(key=value)` and JSON's constants by the syntax that `ast.literal_eval` accepts."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        names = [keyword.arg for keyword in node.keywords]
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args or None in names:
            return node
        values = [self.visit(keyword.value) for keyword in node.keywords]
        return ast.Dict([ast.Constant(name) for name in names], values)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_JSON[node.id]) if node.id in _JSON else node
