"""Rules for the tests: they use no private members of the package, and test names are unique."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("*.py"))
# Private names of other packages that the tests may use, since there is no public counterpart.
OF_TORCH = {"_dynamo", "_python_dispatch", "_pytree", "_subclasses"}
OF_TORCHVISION = {"_utils", "_KERNEL_REGISTRY", "_loss_type"}
OF_TIMM = {"_hub"}
OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make"}
ALLOWED = OF_TORCH | OF_TORCHVISION | OF_TIMM | OF_NAMED_TUPLES
# Functions that take a member's name as text.
BY_TEXT = {
    "setattr",
    "getattr",
    "hasattr",
    "delattr",
    "attrgetter",
    "patch",
}


def is_private(name: str) -> bool:
    return re.match(r"_(?!_.*__$)\w", name) is not None and name not in ALLOWED


def private_members(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines and names of the private members that a file uses as attributes, in imports, or as text (`setattr`)."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = [value.value for value in node.args[:2] if isinstance(value, ast.Constant)]
            if function in BY_TEXT:
                names = [part for text in texts if isinstance(text, str) for part in text.split(".")]
        yield from ((node.lineno, name) for name in names if is_private(name))


def names_of_tests(path: Path) -> list[str]:
    """The names of all test functions of a file, including those in classes."""
    nodes = ast.walk(ast.parse(path.read_text()))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [function.name for function in functions if function.name.startswith("test")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_tests_use_no_private_members(path: Path) -> None:
    assert not [f"{path.name}:{line}: {name}" for line, name in private_members(ast.parse(path.read_text()))]


@pytest.mark.parametrize(
    ("code", "private"),
    [
        ("model._cache", ["_cache"]),
        ("model.__cache", ["__cache"]),
        ("from chordate.ops.boxes import _area", ["_area"]),
        ("import chordate._boxes", ["_boxes"]),
        ('monkeypatch.setattr("chordate.launch._join", None)', ["_join"]),
        ('monkeypatch.setattr(launch, "_join", None)', ["_join"]),
        ("getattr(launch, '_join')", ["_join"]),
        ("model.cache.__class__; import torch._dynamo; point._replace(x=1); {'_base_': []}", []),
    ],
)
def test_the_search_for_private_members_detects_each_kind_of_use(code: str, private: list[str]) -> None:
    assert [name for _, name in private_members(ast.parse(code))] == private


def test_test_names_are_unique() -> None:
    """Names are unique across files, so that a name identifies a test."""
    files: dict[str, list[str]] = {}
    for path in FILES:
        for name in names_of_tests(path):
            files.setdefault(name, []).append(path.name)
    assert not {name: file_names for name, file_names in files.items() if len(file_names) > 1}
