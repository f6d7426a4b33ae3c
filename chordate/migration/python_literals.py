"""Evaluates the expressions of other frameworks' Python configs, as data: no code of the file is executed.

Expressions may contain literals, arithmetic, comparisons, comprehensions, f-strings, names that were assigned before,
and calls of `dict`, `range` and FUNCTIONS. Work and memory are limited, so a hostile file raises an error.
"""

from __future__ import annotations

import ast
import operator
from collections import ChainMap
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from chordate.errors import ConfigError

MAX_WORK = 200_000  # limit on evaluated nodes and copied items per file; the frameworks' largest configs need 5,000
MAX_LENGTH = 100_000  # limit on the characters of a string and the items of a list
SHORT_TEXT = 64  # copying a string adds 1 unit of work per 64 characters, since f-strings and messages may repeat it
MAX_NUMBER = 2**64
NUMERIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Sub: operator.sub, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow, ast.Add: operator.add, ast.Mult: operator.mul,
}  # fmt: skip
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int, "float": float, "list": list, "tuple": tuple, "len": len, "sum": sum, "min": min, "max": max,
    "abs": abs, "round": round,
}  # fmt: skip


class Evaluator:
    """Evaluates expressions with the names in `names`; the work of each instance is limited by MAX_WORK.

    Args:
        source: the file, for error messages.
        names: mapping from name to value; values are copied when they are read.
    """

    def __init__(self, source: str, names: dict[str, Any]):
        self.source, self.names, self.work = source, names, 0

    def text(self, code: str) -> Any:
        """Evaluate an expression in a string, such as the argument of YAML's `!!python/object/apply:eval`.

        Raises:
            ConfigError: the string is not an allowed expression.
        """
        return self.evaluate(parse(code, self.source, "eval").body)

    def evaluate(self, node: ast.AST) -> Any:
        """Evaluate an expression.

        Raises:
            ConfigError: the expression would run code, uses an unknown name, fails, or exceeds the limits.
        """
        try:
            return self._value(node, self.names)
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise self._error(node, f"{type(error).__name__}: {error}"[:200]) from error

    def _error(self, node: ast.AST, reason: str) -> ConfigError:
        return ConfigError(f"{self.source}: line {getattr(node, 'lineno', 1)}: {reason}")

    def _spend(self, amount: int, node: ast.AST) -> None:
        self.work += amount
        if self.work > MAX_WORK or amount > MAX_LENGTH:
            raise self._error(node, "the file computes or copies more data than any config needs")

    def _value(self, node: ast.AST, names: MutableMapping[str, Any]) -> Any:
        self._spend(1, node)
        evaluator = getattr(self, f"_{type(node).__name__.lower()}", None)
        if evaluator is None:
            text = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            raise self._error(node, f"cannot be read without running it: {text[:80]}")
        return evaluator(node, names)

    def _constant(self, node: ast.Constant, names: MutableMapping[str, Any]) -> Any:
        if isinstance(node.value, bytes | complex) or node.value is ...:
            raise self._error(node, f"{ast.unparse(node)[:80]} is not supported in a config")
        return self._bounded(node.value, node)

    def _name(self, node: ast.Name, names: MutableMapping[str, Any]) -> Any:
        if node.id not in names:
            raise self._error(node, f"the name {node.id} is used before it is assigned")
        return self._copy(names[node.id], node)

    def _attribute(self, node: ast.Attribute, names: MutableMapping[str, Any]) -> Any:
        owner = self._value(node.value, names)
        if not isinstance(owner, dict) or node.attr not in owner:
            raise self._error(node, f"{ast.unparse(node)[:80]} does not exist")
        return owner[node.attr]

    def _subscript(self, node: ast.Subscript, names: MutableMapping[str, Any]) -> Any:
        return self._bounded(self._value(node.value, names)[self._value(node.slice, names)], node)

    def _slice(self, node: ast.Slice, names: MutableMapping[str, Any]) -> slice:
        return slice(
            *(None if part is None else self._value(part, names) for part in (node.lower, node.upper, node.step))
        )

    def _list(self, node: ast.List | ast.Tuple, names: MutableMapping[str, Any]) -> list[Any]:
        items: list[Any] = []
        for item in node.elts:
            if isinstance(item, ast.Starred):
                items += self._value(item.value, names)
            else:
                items.append(self._value(item, names))
        return items

    def _tuple(self, node: ast.Tuple, names: MutableMapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self._list(node, names))

    def _set(self, node: ast.Set, names: MutableMapping[str, Any]) -> Any:
        inner = node.elts[0]
        if len(node.elts) != 1 or not isinstance(inner, ast.Set) or len(inner.elts) != 1:
            raise self._error(node, "a set is not supported in a config")
        return self._value(inner.elts[0], names)  # MMEngine's template `{{_base_.name}}`

    def _dict(self, node: ast.Dict, names: MutableMapping[str, Any]) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values):
            if key is None:
                values |= self._value(value, names)
            else:
                values[self._value(key, names)] = self._value(value, names)
        return values

    def _call(self, node: ast.Call, names: MutableMapping[str, Any]) -> Any:
        function = node.func.id if isinstance(node.func, ast.Name) else None
        arguments = [self._value(argument, names) for argument in node.args] if function else []
        if function == "dict":
            values = dict(*arguments)
            for keyword in node.keywords:
                value = self._value(keyword.value, names)
                values |= value if keyword.arg is None else {keyword.arg: value}
            return values
        if function == "range" and not node.keywords:
            numbers = range(*arguments)
            self._spend(len(numbers), node)
            return list(numbers)
        if function in FUNCTIONS and not node.keywords:
            return self._bounded(FUNCTIONS[function](*arguments), node)
        raise self._error(node, f"calls a function, which is not run: {ast.unparse(node.func)[:80]}(…)")

    def _binop(self, node: ast.BinOp, names: MutableMapping[str, Any]) -> Any:
        left, right = self._value(node.left, names), self._value(node.right, names)
        if isinstance(left, int | float) and isinstance(right, int | float) and type(node.op) in NUMERIC:
            if isinstance(node.op, ast.Pow) and abs(right) > 64:
                raise self._error(node, "the exponent is too large")
            return self._bounded(NUMERIC[type(node.op)](left, right), node)
        sized = str | list | tuple
        if isinstance(node.op, ast.Add) and isinstance(left, sized) and isinstance(right, sized):
            self._spend(len(left) + len(right), node)
            return left + right  # type: ignore[operator]
        if isinstance(node.op, ast.Mult) and isinstance(left, sized) and isinstance(right, int):
            self._spend(self._size(left, node) * max(0, right), node)
            return left * right
        raise self._error(node, f"cannot be computed: {ast.unparse(node)[:80]}")

    def _unaryop(self, node: ast.UnaryOp, names: MutableMapping[str, Any]) -> Any:
        value = self._value(node.operand, names)
        if isinstance(node.op, ast.Not):
            return not value
        return -value if isinstance(node.op, ast.USub) else +value

    def _boolop(self, node: ast.BoolOp, names: MutableMapping[str, Any]) -> Any:
        value: Any = None
        for operand in node.values:
            value = self._value(operand, names)
            if bool(value) == isinstance(node.op, ast.Or):
                break
        return value

    def _compare(self, node: ast.Compare, names: MutableMapping[str, Any]) -> bool:
        left = self._value(node.left, names)
        for kind, operand in zip(node.ops, node.comparators):
            right = self._value(operand, names)
            if isinstance(kind, ast.In | ast.NotIn):
                holds = (left in right) == isinstance(kind, ast.In)
            else:
                holds = COMPARISONS[type(kind)](left, right)
            if not holds:
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp, names: MutableMapping[str, Any]) -> Any:
        return self._value(node.body if self._value(node.test, names) else node.orelse, names)

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp, names: MutableMapping[str, Any]) -> list[Any]:
        return [self._value(node.elt, inner) for inner in self._loop(node.generators, names)]

    _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp, names: MutableMapping[str, Any]) -> dict[Any, Any]:
        loop = self._loop(node.generators, names)
        return {self._value(node.key, inner): self._value(node.value, inner) for inner in loop}

    def _loop(
        self, loops: list[ast.comprehension], names: MutableMapping[str, Any]
    ) -> Iterator[MutableMapping[str, Any]]:
        """Yield the dict from names to values for each iteration of a comprehension."""
        if not loops:
            yield names
            return
        first, *rest = loops
        for item in self._value(first.iter, names):
            targets = [first.target] if isinstance(first.target, ast.Name) else getattr(first.target, "elts", [])
            items = [item] if isinstance(first.target, ast.Name) else list(item)
            self._spend(len(targets), first.iter)
            inner = ChainMap({ast.unparse(target): value for target, value in zip(targets, items, strict=True)}, names)
            if all(self._value(condition, inner) for condition in first.ifs):
                yield from self._loop(rest, inner)

    def _joinedstr(self, node: ast.JoinedStr, names: MutableMapping[str, Any]) -> str:
        return self._bounded("".join(str(self._value(part, names)) for part in node.values), node)

    def _formattedvalue(self, node: ast.FormattedValue, names: MutableMapping[str, Any]) -> str:
        if node.format_spec is not None:
            raise self._error(node, "a format in an f-string is not supported")
        return str(self._value(node.value, names))

    def _bounded(self, value: Any, node: ast.AST) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_NUMBER:
            raise self._error(node, "a number is too large")
        if isinstance(value, str | list | tuple):
            self._spend(len(value), node)
        return value

    def _copy(self, value: Any, node: ast.AST) -> Any:
        """A deep copy, so that later changes of a setting affect no other setting."""
        self._spend(1, node)
        if isinstance(value, dict):
            return {key: self._copy(item, node) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(item, node) for item in value)
        if isinstance(value, str):
            self._spend(len(value) // SHORT_TEXT, node)
        return value

    def _size(self, value: Any, node: ast.AST) -> int:
        """Number of items in nested lists and dicts, which count as items, too; a string counts as its characters."""
        self._spend(1, node)
        if isinstance(value, dict):
            return 1 + sum(self._size(item, node) for item in value.values())
        if isinstance(value, list | tuple):
            return 1 + sum(self._size(item, node) for item in value)
        return len(value) if isinstance(value, str) else 1


def parse(code: str, source: str, mode: str = "exec") -> Any:
    """Parse Python code into a syntax tree.

    Raises:
        ConfigError: the code is not Python, or is nested too deeply.
    """
    try:
        return ast.parse(code.strip() if mode == "eval" else code, mode=mode)
    except SyntaxError as error:
        raise ConfigError(f"{source}: line {error.lineno}: cannot be parsed as Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise ConfigError(f"{source}: cannot be parsed as Python: {reason}") from error
