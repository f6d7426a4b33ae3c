"""Of mmengine, Chordate imports only mmengine.registry and mmengine.config; tests may compare with other modules."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("chordate", "backbones", "necks", "heads", "configs", "tools", "benchmarks")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
ALLOWED = ("mmengine.registry", "mmengine.config")


def imports_of(path: Path) -> list[str]:
    """The modules that a file imports, also inside functions."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
    return modules


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_registry_and_config_are_imported_from_mmengine(path: Path) -> None:
    ours = [module for module in imports_of(path) if module.split(".")[0] == "mmengine"]
    assert [module for module in ours if module not in ALLOWED] == []
